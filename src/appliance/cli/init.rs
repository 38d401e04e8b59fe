//! `groundcrew init`.

use std::process::ExitCode;

use super::args::InitArgs;
use crate::hq::found::create;
use crate::site::create::FirstMode;

pub fn run(args: &InitArgs) -> anyhow::Result<ExitCode> {
    let network = &args.network;
    let site = create(&args.dir, &network.site(&args.org, &args.name))?;
    let (dir, site) = (args.dir.display(), site.dir().display().to_string());
    println!(
        "Made {dir}/hq, the offline keys, and {site}, the site {} of {}.",
        args.name, args.org
    );
    println!();
    println!("Next:");
    println!("  1. what devices boot:     groundcrew image build --site {site}");
    println!("  2. what they become:      edit {site}/sources/welcome/bundle.toml, then");
    println!("       groundcrew bundle build {site}/sources/welcome --out welcome.bundle");
    println!("       groundcrew bundle publish welcome.bundle --hq {dir}/hq --site {site}");
    println!(
        "  3. the network:           ip address add {} dev {}",
        network.address, network.interface
    );
    println!("  4. look before you start: groundcrew check --site {site}");
    println!("  5. go:                    groundcrew serve --site {site}");
    if network.mode == FirstMode::Auto {
        println!();
        println!("It gives addresses only where no other DHCP server answers for 45 s; where one");
        println!("does, it only says what to boot. `mode` in {site}/site.toml changes that.");
    }
    println!();
    println!("Keep {dir}/hq away from the appliance: whoever has it can sign for every site.");
    Ok(ExitCode::SUCCESS)
}
