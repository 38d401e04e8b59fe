//! The command line: what may be typed, and what `--help` says about it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use groundcrew_core::SiteId;

use super::site_arg::SiteArg;
use crate::site::create::{FirstMode, NewSite};

/// Offline USB/PXE provisioning appliance.
///
/// A new device boots from the appliance over the network, is known by its
/// hardware, is granted a signed bundle, verifies and applies it, and comes up
/// from its own disk, configured. No internet is needed.
#[derive(Debug, Parser)]
#[command(
    name = "groundcrew",
    version,
    arg_required_else_help = true,
    max_term_width = 80,
    after_help = "\
Examples:
  groundcrew init /srv/gc --org 'Example Ltd' --address 10.77.0.1/24 \\
    --interface eth1
  groundcrew image build --site /srv/gc/site
  groundcrew bundle build /srv/gc/site/sources/welcome --out /tmp/welcome
  groundcrew bundle publish /tmp/welcome --hq /srv/gc/hq --site /srv/gc/site
  groundcrew check --site /srv/gc/site
  groundcrew serve --site /srv/gc/site

Exit status: 0 done, 1 failed, 2 wrong usage."
)]
pub struct Cli {
    /// Say more: -v for decisions, -vv for every packet (or set RUST_LOG)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new HQ (offline keys) and its first site
    #[command(after_help = "\
Example:
  groundcrew init /srv/gc --org 'Example Ltd' --address 10.77.0.1/24 \\
    --interface eth1

DIR/hq holds the offline keys: keep it away from the appliance once the site is set up.
DIR/site is what the appliance serves.")]
    Init(InitArgs),
    /// Check configuration and machine, and say what to do about each finding
    Check(CheckArgs),
    /// Serve a site: DHCP, TFTP, HTTP boot, enrollment
    Serve(ServeArgs),
    /// Build what devices boot
    #[command(subcommand)]
    Image(ImageCommand),
    /// Build, check and publish bundles
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// See, register, approve and reset devices
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Say which profile a device gets
    #[command(subcommand)]
    Profile(super::explain::ProfileCommand),
    /// See what happened to devices that boot, why, and what to do about it
    #[command(subcommand)]
    Boot(super::boot::BootCommand),
    /// Open the status page, where devices are approved without a shell
    #[command(subcommand)]
    Page(super::page::PageCommand),
    /// See what is served on the devices' network, and who else answers there
    #[command(subcommand)]
    Net(NetCommand),
    /// See addresses in use, and take them back
    #[command(subcommand)]
    Lease(LeaseCommand),
    /// Read and verify the site's journal
    #[command(subcommand)]
    Journal(super::journal::JournalCommand),
    /// Copy a site, served or not, into one file
    Backup(super::backup::BackupArgs),
    /// Make a site from a backup
    Restore(super::backup::RestoreArgs),
    /// Explain Autopilot hardware hashes
    #[command(subcommand)]
    Hash(super::hash::HashCommand),
    /// See how a site's trust stands; carry what HQ signed to a site
    #[command(subcommand)]
    Trust(super::hq_args::TrustCommand),
    /// See whether the clock is believed, and say what time it is
    #[command(subcommand)]
    Clock(super::clock::ClockCommand),
    /// Hold the offline keys: found HQ, add sites, change keys, sign together
    #[command(subcommand)]
    Hq(super::hq_args::HqCommand),
    /// Make and keep USB sticks that provision with or without a network
    #[command(subcommand)]
    Stick(super::stick::StickCommand),
}

/// `groundcrew init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Folder to make; `hq` and `site` come inside it
    pub dir: PathBuf,
    /// The organisation's name, as devices show it
    #[arg(long, value_name = "NAME")]
    pub org: String,
    /// The site's short name: prefix of device ids and host names
    #[arg(long, value_name = "NAME", default_value = "hq")]
    pub name: SiteId,
    #[command(flatten)]
    /// Its first network
    pub network: FirstNetwork,
}

/// The first network of a new site.
#[derive(Debug, Args)]
pub struct FirstNetwork {
    /// The appliance's address and prefix length on the devices' network
    #[arg(long, value_name = "A.B.C.D/N")]
    pub address: crate::site::Cidr,
    /// The interface on that network
    #[arg(long, value_name = "IF")]
    pub interface: String,
    /// Who gives devices their addresses there
    #[arg(long, value_enum, default_value_t)]
    pub mode: FirstMode,
}

impl FirstNetwork {
    /// A site that begins with it.
    pub fn site<'a>(&'a self, organisation: &'a str, name: &'a SiteId) -> NewSite<'a> {
        NewSite {
            organisation,
            name,
            address: self.address,
            interface: &self.interface,
            mode: self.mode,
        }
    }
}

/// `groundcrew check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// Findings as JSON
    #[arg(long)]
    pub json: bool,
    /// Do not ask the network whether another DHCP server answers
    #[arg(long)]
    pub quiet_wire: bool,
}

/// `groundcrew serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  groundcrew serve --site /srv/gc/site

Needs the right to bind ports 67, 68, 69, 80, 123, 443 and 4011 (what site.toml asks for of them)
and to use raw sockets: run it as root, or by config/groundcrew.service. It says \"ready\" when every socket is bound. Ctrl-C or SIGTERM ends it.")]
pub struct ServeArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// Log lines as JSON
    #[arg(long)]
    pub log_json: bool,
}

/// `groundcrew image`.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Put kernel, agent and the site's trust root together
    #[command(after_help = "\
Examples:
  groundcrew image build --site site
  groundcrew image build --site site --kernel-deb linux-image-6.1.0-56-amd64_6.1.192-2_amd64.deb
  groundcrew image build --uki --sign-key boot-key.pem --sign-cert boot-cert.pem

For 64-bit ARM, beside the image for x86-64 (its packages are read, not installed):
  groundcrew image build --arch arm64 --kernel-deb linux-image-6.1.0-56-arm64_…_arm64.deb \\
      --loader-deb ipxe_…_all.deb --loader-deb grub-efi-arm64-bin_…_arm64.deb

What `[boot]` in site.toml names is built without being asked for.")]
    Build(ImageBuildArgs),
    /// Make a key that signs boot images, for Secure Boot
    #[command(after_help = "\
Example:
  groundcrew image new-key --out boot-keys")]
    NewKey(super::secure::NewKeyArgs),
    /// Write what puts the key's certificate into machines
    #[command(after_help = "\
Example:
  groundcrew image enroll-keys --sign-key boot-keys/boot-key.pem \\
      --sign-cert boot-keys/boot-cert.pem --out enroll")]
    EnrollKeys(super::secure::EnrollKeysArgs),
}

/// `groundcrew image build`.
#[derive(Debug, Args)]
pub struct ImageBuildArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// For which processor; a site may have images for both
    #[arg(long, value_enum, value_name = "ARCH", default_value_t)]
    pub arch: crate::image::Arch,
    /// Debian's kernel package, where the machine cannot fetch it
    #[arg(long, value_name = "FILE")]
    pub kernel_deb: Option<PathBuf>,
    /// The agent; default: `../agent/groundcrew-agent` from this program's folder,
    /// where `scripts/build-agent` puts it, then `groundcrew-agent` beside this program
    #[arg(long, value_name = "FILE")]
    pub agent: Option<PathBuf>,
    /// Debian's packages with loaders, read without installing them
    #[arg(long, value_name = "FILE")]
    pub loader_deb: Vec<PathBuf>,
    /// Folder with ipxe.efi, snponly.efi and undionly.kpxe
    #[arg(long, value_name = "DIR")]
    pub ipxe_dir: Option<PathBuf>,
    /// Make groundcrew.efi: kernel, initrd and command line in one
    #[arg(long)]
    pub uki: bool,
    #[command(flatten)]
    /// Signs the image
    pub signer: super::secure::SignerArgs,
    /// Put an unsigned image in the place of a signed one
    #[arg(long, conflicts_with = "sign_key")]
    pub unsigned: bool,
    /// systemd's EFI stub, where its package is not installed
    #[arg(long, value_name = "FILE")]
    pub uki_stub: Option<PathBuf>,
    /// Add Debian's signed shim and GRUB
    #[arg(long)]
    pub shim: bool,
    /// Add pxelinux
    #[arg(long)]
    pub pxelinux: bool,
    /// What was built, as JSON
    #[arg(long)]
    pub json: bool,
}

/// `groundcrew device`.
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// List the devices the site knows
    #[command(after_help = "\
Examples:
  groundcrew device list
  groundcrew device list --phase waiting
  groundcrew device list --find 'latitude 5440' --limit 20")]
    List(DeviceFindArgs),
    /// Everything known of one device
    Show(DeviceShowArgs),
    /// Register devices from an Autopilot CSV
    #[command(after_help = "\
Examples:
  groundcrew device import AutopilotHWID.csv
  groundcrew device import --dry-run --tag kiosk devices.csv
  groundcrew device import --rejects mend.csv devices.csv")]
    Import(super::inventory::DeviceImportArgs),
    /// Write registrations as CSV files that Intune imports
    #[command(after_help = "\
Examples:
  groundcrew device export > devices.csv
  groundcrew device export --out export")]
    Export(super::inventory::DeviceExportArgs),
    /// Let in waiting devices whose screens show these codes
    #[command(after_help = "\
Examples:
  groundcrew device approve hq-7k2m9qx4 K7QF-2M9X
  groundcrew device approve K7QF-2M9X 9FHA-FEQF 3TGV-W2XA

Compare: each code must be the one on the device's own screen. Devices that need nobody to look
are let in by `[[enrollment.rule]]` in site.toml.")]
    Approve(super::approve::DeviceApproveArgs),
    /// Refuse a waiting device
    Reject(DeviceRejectArgs),
    /// Provision a device anew at its next start from the network
    Reprovision(DeviceOneArgs),
    /// Accept the changed hardware (board, TPM) of a device that waits
    #[command(after_help = "\
Example:
  groundcrew device explain hq-7k2m9qx4     what changed
  groundcrew device accept hq-7k2m9qx4

This trusts what the machine says of itself, as a registration does. To be sure which machine
asks, compare codes: `groundcrew device approve ID CODE` accepts changed hardware too.")]
    Accept(DeviceOneArgs),
    /// Keep a device from going on until it is released
    #[command(after_help = "\
Examples:
  groundcrew device hold hq-7k2m9qx4 --reason 'display is broken'
  groundcrew device release hq-7k2m9qx4

A held device starts its own disk and is granted nothing. The site holds one by itself that failed
three times in a row for the same reason.")]
    Hold(DeviceHoldArgs),
    /// Let a held device go on
    Release(DeviceOneArgs),
    /// Say field by field why a machine is taken for a device, or for none
    #[command(after_help = "\
Examples:
  groundcrew device explain hq-7k2m9qx4
  groundcrew device explain AutopilotHWID.csv:2
  groundcrew device explain --report report.json")]
    Explain(super::explain::DeviceExplainArgs),
    /// Give a device the tag that selects its profile
    #[command(after_help = "\
Examples:
  groundcrew device tag hq-7k2m9qx4 kiosk
  groundcrew device tag hq-7k2m9qx4 --clear

It counts from the device's next grant on: `groundcrew device reprovision` asks for one.")]
    Tag(DeviceTagArgs),
    /// Take a device out of service; its hardware may be registered anew
    #[command(after_help = "\
Example:
  groundcrew device retire hq-7k2m9qx4 --reason 'given back to the lessor'")]
    Retire(DeviceRetireArgs),
    /// Release a device to another site, signed, and retire it here
    #[command(after_help = "\
Example:
  groundcrew device transfer hq-7k2m9qx4 --to lab --out hq-7k2m9qx4.release")]
    Transfer(super::transfer::DeviceTransferArgs),
    /// Register a device that another site released to this one
    #[command(after_help = "\
Examples:
  groundcrew device receive hq-7k2m9qx4.release
  groundcrew device receive hq-7k2m9qx4.release --key ed25519:KEY

Without --key, this site's HQ must have signed a charter of the other site.")]
    Receive(super::transfer::DeviceReceiveArgs),
    /// Know a device no longer that is not in service; the journal keeps its story
    #[command(after_help = "\
Example:
  groundcrew device forget hq-7k2m9qx4")]
    Forget(DeviceOneArgs),
}

/// `groundcrew device list`.
#[derive(Debug, Args)]
pub struct DeviceFindArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// Only those with TEXT in id, serial, maker, model, tag, code or MAC
    #[arg(long, value_name = "TEXT")]
    pub find: Option<String>,
    /// Only those in this phase, such as waiting, failed or held
    #[arg(long, value_name = "PHASE")]
    pub phase: Option<String>,
    /// At most N, those that need somebody first
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// A list.
#[derive(Debug, Args)]
pub struct DeviceListArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// `groundcrew device show`.
#[derive(Debug, Args)]
pub struct DeviceShowArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// The device's id
    pub id: groundcrew_core::DeviceId,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Print the log that the device's agent sent last; with --json as `log`, or null
    #[arg(long)]
    pub log: bool,
}

/// `groundcrew device reject`.
#[derive(Debug, Args)]
pub struct DeviceRejectArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// The device's id
    pub id: groundcrew_core::DeviceId,
    /// Why; the device shows it
    #[arg(long, default_value = "refused by a technician")]
    pub reason: String,
}

/// `groundcrew device hold`.
#[derive(Debug, Args)]
pub struct DeviceHoldArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// The device's id
    pub id: groundcrew_core::DeviceId,
    /// Why; the device shows it
    #[arg(long, default_value = "held by a technician")]
    pub reason: String,
}

/// `groundcrew device tag`.
#[derive(Debug, Args)]
pub struct DeviceTagArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// The device's id
    pub id: groundcrew_core::DeviceId,
    /// The tag
    #[arg(required_unless_present = "clear", conflicts_with = "clear")]
    pub tag: Option<groundcrew_registry::device::Tag>,
    /// Take the tag away
    #[arg(long)]
    pub clear: bool,
}

/// `groundcrew device retire`.
#[derive(Debug, Args)]
pub struct DeviceRetireArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// The device's id
    pub id: groundcrew_core::DeviceId,
    /// Why, for the journal
    #[arg(long, default_value = "taken out of service")]
    pub reason: String,
}

/// One device.
#[derive(Debug, Args)]
pub struct DeviceOneArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// The device's id
    pub id: groundcrew_core::DeviceId,
}

/// `groundcrew bundle`.
#[derive(Debug, Subcommand)]
pub enum BundleCommand {
    /// Build a bundle from a folder with a bundle.toml
    #[command(after_help = "\
Example:
  groundcrew bundle build site/sources/welcome --out welcome.bundle")]
    Build(BundleBuildArgs),
    /// Sign a bundle with HQ's targets key and hand it to the site
    Publish(BundlePublishArgs),
    /// Check every byte of a bundle folder against its digests
    Verify(BundleFolderArgs),
    /// Tell what is in a bundle
    Show(BundleFolderArgs),
}

/// `groundcrew bundle build`.
#[derive(Debug, Args)]
pub struct BundleBuildArgs {
    /// Folder with bundle.toml
    pub source: PathBuf,
    /// Folder to write (an OCI image layout)
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// What was built, as JSON
    #[arg(long)]
    pub json: bool,
}

/// `groundcrew bundle publish`.
#[derive(Debug, Args)]
pub struct BundlePublishArgs {
    /// The bundle folder that `bundle build` wrote
    pub bundle: PathBuf,
    #[command(flatten)]
    /// HQ
    pub hq: super::hq_args::HqArg,
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
}

/// A bundle folder.
#[derive(Debug, Args)]
pub struct BundleFolderArgs {
    /// The bundle folder that `bundle build` wrote
    pub bundle: PathBuf,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// `groundcrew lease`.
#[derive(Debug, Subcommand)]
pub enum LeaseCommand {
    /// List the addresses that were given, and to whom
    List(DeviceListArgs),
    /// Take an address back; its device moves when it next asks
    Release(LeaseReleaseArgs),
}

/// `groundcrew lease release`.
#[derive(Debug, Args)]
pub struct LeaseReleaseArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// The address
    pub ip: std::net::Ipv4Addr,
}

/// `groundcrew net`.
#[derive(Debug, Subcommand)]
pub enum NetCommand {
    /// Mode, pool, other DHCP servers heard, and counts since the start
    Show(DeviceListArgs),
}
