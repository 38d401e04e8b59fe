//! Why a boot ended where it did: one name for each cause, and fixed words for
//! a technician who is no expert of network boot.

use serde::{Deserialize, Serialize};

macro_rules! causes {
    ($($(#[doc = $doc:literal])+ $name:ident: $short:literal, $likely:literal, $cure:literal;)+) => {
        /// Why a boot ended where it did.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Cause {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Cause {
            /// Every cause there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// In a few words, for lists: at most 36 characters.
            pub const fn short(self) -> &'static str {
                match self { $(Self::$name => $short,)+ }
            }

            /// The likely cause, in whole sentences.
            pub const fn likely(self) -> &'static str {
                match self { $(Self::$name => $likely,)+ }
            }

            /// What to do about it.
            pub const fn cure(self) -> &'static str {
                match self { $(Self::$name => $cure,)+ }
            }
        }
    };
}

causes! {
    /// Another server's offer was taken.
    OtherServerTaken: "took another DHCP server's offer",
        "Two DHCP servers answer on this network, and the device took the other one's offer. That one does not lead here.",
        "Switch the other server off on this network, or let it give the addresses and set `mode = \"proxy\"` in site.toml. `groundcrew net show` names the servers heard.";
    /// The boot offer beside another server's address was not taken up.
    ProxyOfferIgnored: "ignored the boot offer (ProxyDHCP)",
        "The device took its address from the other DHCP server and did not take up our boot offer beside it. Some firmware ignores a boot offer that comes apart from the address.",
        "Let the other server name the boot server itself (options 66 and 67: this appliance and the loader), or let this appliance give the addresses (`mode = \"authoritative\"`).";
    /// HTTP Boot was answered without option 60.
    NoHttpClientEcho: "HTTP Boot answer lacks option 60",
        "UEFI HTTP Boot takes an answer only if it carries option 60 `HTTPClient`. The server whose answer the device took sent a URL without it.",
        "Set option 60 to `HTTPClient` for these devices on that DHCP server, or let this appliance answer (`mode = \"proxy\"` beside it).";
    /// A loader for another kind of firmware was sent.
    WrongLoader: "was given another firmware's loader",
        "The device fetched a loader that is made for another kind of firmware (BIOS or UEFI), so it cannot start it. Somebody else's DHCP answer named that file.",
        "Remove the boot file (option 67) from the other DHCP server, or make it depend on option 93; this appliance chooses the right loader by itself.";
    /// Nothing here fits the device's architecture.
    NoLoaderForArchitecture: "no loader here for its architecture",
        "This appliance has no loader for the kind of machine that the device says it is.",
        "A 64-bit ARM machine: `groundcrew image build --arch arm64`, then start `groundcrew serve` again. Another: switch its firmware to x86-64 UEFI or BIOS network boot if it can.";
    /// The loader's file is not in the boot folder.
    LoaderMissing: "the loader is missing here",
        "The device asked for a loader that does not lie in the site's boot folder.",
        "Build the boot files: `groundcrew image build`. If the name is not one of ours, another DHCP server named it: remove its boot file (option 67).";
    /// Kernel or initrd is not in the boot folder.
    BootImageMissing: "kernel or initrd is missing here",
        "The device was told to load the agent, and its kernel or initrd does not lie in the site's boot folder.",
        "Build it: `groundcrew image build`, then switch the device on again.";
    /// A transfer ended in the middle.
    TransferCut: "a transfer broke off in the middle",
        "The file's transfer broke off: packets are lost on the way. A bad cable or port, a switch that drops fragments or bursts, or somebody switched the device off.",
        "Try another cable and switch port, without a hub or dock in between. If it breaks off at the same byte every time, look for a firewall or an MTU that is too small on the way.";
    /// This side ended or refused a transfer.
    ApplianceEnded: "refused or ended by the appliance",
        "This appliance itself refused or ended the transfer of a file; what was seen in the story says why.",
        "If it was stopped or restarted, switch the device on again. Otherwise `groundcrew check` and the appliance's log say what is wrong with the file.";
    /// There was no place for one more transfer.
    TransfersFull: "too many transfers at once",
        "This appliance was sending as many files as it may, or this device asked for too many at once, so it was not answered.",
        "Start fewer machines at a time, and switch this one on again; `groundcrew net show` lists which files are on their way to whom.";
    /// The device refused what TFTP's options were agreed to be.
    BlksizeRefused: "its firmware refused TFTP options",
        "The device ended the transfer when it heard the block size or window (TFTP error 8) and did not ask again without. Its network boot firmware has a fault here.",
        "Update the device's firmware (BIOS/UEFI or network card), or choose UEFI HTTP Boot in its boot menu if it has one.";
    /// An answer through a relay does not arrive.
    RelayReplyLost: "the relay's answer does not arrive",
        "The device's questions come through a relay (IP helper) and are answered, but it goes on asking: our answers do not come back through the relay.",
        "Check that this appliance can reach the relay's address (ping it) and has a route to that network, and that no firewall stops UDP port 67 on the way back.";
    /// An offer was sent, and the device goes on asking.
    OfferNotHeard: "goes on asking, hears no offer",
        "The device was answered, and went on asking or went silent. Our offer does not reach it, or its firmware does not accept it.",
        "Look for DHCP snooping on the switch (this appliance's port must be trusted), for a port that is still waking up (spanning tree: enable portfast), and for another network card's cable.";
    /// There is no free address.
    PoolEmpty: "no free address in the pool",
        "All addresses of the pool are in use, so the device got none.",
        "Widen `pool` in site.toml or shorten `lease`; `groundcrew lease list` shows who has them, `groundcrew lease release ADDRESS` takes one back.";
    /// The address is used by another machine.
    AddressConflict: "its address is used by somebody else",
        "The address that the device was to get is used by another machine that did not get it here. It is put aside for an hour.",
        "Find the machine with a fixed address inside the pool (its card is named above) and give it an address outside, or make the pool smaller.";
    /// It asks too often.
    RateLimited: "asks too often and is slowed down",
        "The device sends more questions than any boot needs, so some are not answered. Two machines that share one card's address (a dock), a loop in the cabling, or a fault.",
        "Look for a cabling loop, and for docks or adapters that lend one address to many machines; then wait a minute and try again.";
    /// This appliance answers nobody in its present role.
    NotServing: "the appliance answers nobody now",
        "The appliance does not answer on this network at the moment: it still listens for other DHCP servers, or it is not to give addresses and heard nobody who does.",
        "`groundcrew net show` says which. Choose `mode` in site.toml: `authoritative` on a network of its own, `proxy` beside another server.";
    /// It came through a relay that the site does not know.
    UnknownRelay: "came through a relay nobody set up",
        "The question came through a relay (IP helper) of a network that site.toml does not name, so there is no address to give.",
        "Add a [[network.subnet]] with the relay's address to site.toml, or remove this appliance from the relay's list.";
    /// It got its address and never asked for its loader.
    LoaderNotAskedFor: "never asked for its loader",
        "The device got an address and the name of its loader, and did not ask for it. Something between the device and this appliance stops TFTP (UDP port 69) or HTTP.",
        "Check that no firewall on the appliance or on the way stops UDP port 69 and TCP port 80: `groundcrew check`. Behind a router, the device needs a route to here.";
    /// UEFI has the loader and does not start it.
    SecureBootRefused: "has its loader and did not start it",
        "The firmware fetched its loader completely and then did nothing with it. On UEFI that is nearly always Secure Boot: the loader is not signed by a key that this machine trusts.",
        "Switch Secure Boot off in the firmware's settings, or give the site a signed boot image and put its certificate into the machine (`groundcrew image enroll-keys`).";
    /// BIOS has the loader and does not start it.
    LoaderNotStarted: "has its loader and did not start it",
        "The firmware fetched its loader completely, and nothing was heard of it afterwards: the loader stopped, or does not work with this network card.",
        "Look at the device's screen. Update its firmware, or boot it from another network card or from the stick.";
    /// iPXE or the agent runs and does not reach HTTP.
    HttpUnreachable: "runs, does not reach HTTP here",
        "The loader (iPXE) or the agent runs and has an address, and nothing of it came by HTTP: it does not reach this appliance.",
        "Check that no firewall stops TCP port 80 here (`groundcrew check`), and that the address the device got is on this network or has a router.";
    /// The text was served and nothing was fetched.
    TextNotFollowed: "was told what to boot and did not",
        "The device was told what to boot, and fetched nothing afterwards. Somebody stopped it, it was switched off, or its loader does not understand the order.",
        "Look at the device's screen: iPXE writes there what it could not do.";
    /// Kernel and initrd are there, and the agent never spoke.
    AgentNeverHeard: "kernel started, agent never heard",
        "Kernel and initrd were sent, and the agent was never heard. Most often the boot image has no driver for this network card; or the kernel stopped on this hardware.",
        "Look at the device's screen: the agent writes which card lacks its driver. Build the boot image with it (`groundcrew image build`), or use another card.";
    /// The image of kernel and initrd was sent, and the agent never spoke.
    ImageNotStarted: "boot image sent, agent never heard",
        "The firmware fetched the whole boot image, and its agent was never heard. Either Secure Boot refused it, or the image has no driver for this network card.",
        "Look at the device's screen. If the firmware names security: `groundcrew image enroll-keys`. If the agent names a card: build the image with its driver (`groundcrew image build`).";
    /// shim refused the site's image and started MokManager.
    KeyNotEnrolled: "its shim lacks the site's key (MOK)",
        "Secure Boot is on, and shim on this machine does not have the site's key, so it refused the boot image and started its key manager.",
        "Put db.cer on a FAT stick (`groundcrew image enroll-keys` writes it), and enrol it once at the device's screen: Enroll key from disk.";
    /// The agent reaches HTTP, but not HTTPS.
    HttpsUnreachable: "the agent does not reach HTTPS",
        "The agent runs and fetches public files, and does not reach the enrollment port (HTTPS).",
        "Check that no firewall stops TCP port 443 (or `https` in [ports]) between device and appliance: `groundcrew check`.";
    /// The agent was heard and then no more.
    AgentWentSilent: "the agent was heard, then no more",
        "The agent was at work and went silent: the device was switched off, lost its network, or stopped.",
        "Look at the device's screen and cable, and switch it on again: it goes on where it was.";
    /// HTTPS is answered by somebody else.
    WrongServer: "HTTPS is answered by a stranger",
        "What answers HTTPS is not the appliance that HQ's charter names: another machine has its address, or the site's keys changed and the boot image is older.",
        "Look for a second machine with the appliance's address. If the site's keys were changed, let HQ sign the new charter and build the boot image again.";
    /// Nobody knows what time it is.
    ClockUnknown: "the clock cannot be believed",
        "A clock stands before a time that is proven past, or after all signatures ended. Nothing is signed or believed until it is right.",
        "`groundcrew clock show` says why; set it with `groundcrew clock set '2026-11-23 10:00'` (UTC), then switch the device on again.";
    /// HQ's charter has ended.
    CharterExpired: "the site's charter has expired",
        "HQ let this site work until a certain day, and that day has passed. Devices refuse the site.",
        "Let HQ renew it (`groundcrew hq renew`), bring the file here (`groundcrew trust import`); `groundcrew trust status` shows what ends when.";
    /// Other signatures have ended.
    TrustExpired: "the site's signatures have expired",
        "What the site or HQ signed has ended, so the device refuses it.",
        "`groundcrew trust status` says which signature and who renews it. The site renews its own while `groundcrew serve` runs with a right clock.";
    /// The boot image's root and the site's metadata do not belong together.
    RootMismatch: "boot image and site do not match",
        "The boot image was made for another site or with other keys: what this appliance serves does not follow from the trust root inside it.",
        "Build the boot image again on this appliance: `groundcrew image build`. If it is another site's image, let the device boot from its own site.";
    /// The trust root in the image is broken.
    ImageBroken: "the boot image has no trust root",
        "The boot image's own trust root is missing or cannot be read.",
        "Build the boot image again: `groundcrew image build`.";
    /// The appliance does not know the enrollment.
    SessionRefused: "the appliance forgot its enrollment",
        "The appliance did not know the device's enrollment (any more): it was restarted in between, or the device speaks for another site.",
        "Switch the device on again. If it comes back, look into the appliance's log.";
    /// The appliance could not answer.
    ApplianceNotReady: "the appliance could not let it in",
        "The appliance itself was not able to answer: something is missing at the site, or its disk is too slow.",
        "`groundcrew check` and the appliance's log say what is missing.";
    /// It may not do what it asked.
    NotAllowed: "the appliance refused its request",
        "The appliance understood the device and does not allow what it asked.",
        "The reason stands in the story; `groundcrew device list` shows where the device stands.";
    /// A technician has to decide.
    Waiting: "waits for a technician",
        "The site does not know this device for certain, so it waits until somebody compares the code on its screen.",
        "`groundcrew device list` shows its id and code: compare it with the device's screen, then `groundcrew device approve ID CODE` (or `reject`).";
    /// A technician said no.
    Rejected: "a technician refused it",
        "A technician refused this device; it starts its own disk.",
        "If that was a mistake: `groundcrew device reprovision ID`, then switch it on again.";
    /// Two machines say the same UUID.
    DuplicateUuid: "another machine has the same UUID",
        "Two machines say the same SMBIOS UUID, so it names neither. Makers do that by mistake, and so do copied virtual machines.",
        "Register both by serial number, or compare their codes (`groundcrew device list`, `approve`). For virtual machines give each its own UUID.";
    /// There is no disk.
    NoDisk: "the agent found no disk",
        "The agent runs and finds no disk in this machine.",
        "Check that a disk is fitted, and in the firmware's settings that its controller is in AHCI or NVMe mode (not RAID).";
    /// There is no system on the disk.
    NoSystem: "no system is installed on it",
        "The agent found disks, and no installed operating system on them.",
        "Install an operating system on this machine first; then `groundcrew device reprovision ID` and switch it on again.";
    /// There are several systems.
    SeveralSystems: "more than one system is installed",
        "The agent found more than one installed operating system and does not guess which one is meant.",
        "Remove one of the systems or unplug its disk; then `groundcrew device reprovision ID` and switch it on again.";
    /// The system is of a kind that is not provisioned.
    ForeignSystem: "its system cannot be provisioned",
        "The agent found a system on the disk that this version does not work on. Nothing was changed.",
        "Install a system that is supported on a plain ext4, XFS or btrfs partition, then switch it on again.";
    /// The disk is full.
    DiskFull: "its disk is full",
        "There was no room left on the device's disk.",
        "Make room on the device's disk, or make the bundle smaller; then `groundcrew device reprovision ID` and switch it on again.";
    /// The disk does not work.
    DiskFault: "its disk cannot be read or written",
        "The device's disk could not be mounted, read or written.",
        "Let the system check its file system (fsck), or replace the disk; then switch it on again.";
    /// The bundle is not signed for this site.
    BundleNotPublished: "its bundle is not published",
        "The site has signed nothing under the name and version of the bundle that the device was granted, or its files are not here.",
        "Publish it: `groundcrew bundle build`, `groundcrew bundle publish`; then switch the device on again.";
    /// The bundle's bytes are not what was signed.
    BundleChanged: "its bundle is not what was signed",
        "A file of the bundle is not what HQ signed: it was changed or damaged on this appliance. The device changed nothing.",
        "Publish the bundle again (`groundcrew bundle publish`); `groundcrew bundle verify` shows the file. Look for a failing disk, and for who can write here.";
    /// The bundle makes no sense to the agent.
    BundleInvalid: "its bundle cannot be used",
        "The bundle is signed and complete, and the agent cannot use it: it is made for another version, or a variable is missing.",
        "Correct and build the bundle again, raise its version, publish it; then switch the device on again.";
    /// A step failed.
    StepFailed: "a step of its bundle failed",
        "A step of the bundle did not work on this device. The system on its disk still starts.",
        "`groundcrew device show ID --log` shows what the step said. Correct the bundle, publish a new version, then `groundcrew device reprovision ID`.";
    /// The agent has no network.
    AgentNetwork: "the agent has no network",
        "The agent runs and has no usable network card, link or address.",
        "Check the cable, and whether the boot image has a driver for the card (`groundcrew image build`).";
    /// The device's own words are all there is.
    DeviceSays: "gave up; its own words say why",
        "The agent gave up, and its own words are all that is known.",
        "Read its words above; the device's screen shows the same and what to do.";
    /// We said so.
    OwnDiskByOrder: "starts its own disk, as it was told",
        "This appliance told the device to start its own disk: there is nothing to do on it.",
        "Nothing is wrong. To provision it again: `groundcrew device reprovision ID`.";
    /// Whoever stands there decides.
    ByHand: "somebody at the device decides",
        "The device was shown a menu, or got an order for this one start (`boot once`), and asked for nothing afterwards: its own disk, the shell or the memory test runs, as somebody chose.",
        "Nothing is wrong. Its next start goes the usual way.";
    /// Its firmware does not boot from the network.
    OwnDiskByFirmware: "started its own disk, asked nobody",
        "The device is on the network with an ordinary system, and did not ask to boot from the network: its firmware starts the disk first.",
        "Put network boot first in the firmware's boot order, or choose it once in its boot menu (often F12, F11, F9 or Esc).";
    /// It failed the same way too often.
    Held: "failed the same way 3 times",
        "The device failed the same way three times in a row, so it is not sent round until somebody releases it: its screen says so, then its own disk starts (unless its Secure Boot refuses what this site signed).",
        "Cure what is named for the attempts before, then `groundcrew boot release ID` and switch it on again. Many held by one cause: `groundcrew boot release --all`.";
}

impl Cause {
    /// The appliance was busy or stopped: the device is not to blame, and the next
    /// attempt may well go through.
    pub const fn is_ours(self) -> bool {
        matches!(self, Self::ApplianceEnded | Self::TransfersFull)
    }

    /// Nothing is wrong, or somebody just has to decide: no reason to hold a device.
    pub const fn is_fault(self) -> bool {
        !matches!(
            self,
            Self::Waiting
                | Self::Rejected
                | Self::OwnDiskByOrder
                | Self::ByHand
                | Self::OwnDiskByFirmware
                | Self::Held
        )
    }
}
