//! The texts as a person reads them, and the promise that nothing from outside
//! becomes a command.

use proptest::prelude::*;

use super::*;
use crate::ipxe::script_url;

fn settings() -> ScriptSettings {
    ScriptSettings {
        http: SocketAddrV4::new([10, 77, 0, 1].into(), 8080),
        https_port: 8443,
        appliance: "crew-1".into(),
        site: "lab".into(),
        attempts: 3,
        on_failure: OnFailure::OwnDisk,
    }
}

fn agent() -> BootDecision {
    BootDecision::Agent(AgentBoot {
        files: AgentFiles {
            kernel: BootPath::from_tftp("agent/vmlinuz").unwrap(),
            initrds: vec![BootPath::from_tftp("agent/initrd img").unwrap()],
        },
        arm64: AgentFiles::standard("arm64").unwrap(),
        args: vec![KernelArg::new("panic=10").unwrap()],
    })
}

#[test]
fn the_agent_is_loaded_with_the_network_ipxe_has() {
    let expected = "\
#!ipxe
echo
echo groundcrew: crew-1 serves site lab
echo groundcrew: this device is QEMU 4711
echo groundcrew: loading the agent from 10.77.0.1:8080
set try:int32 1
:again
imgfree || goto failed
kernel http://10.77.0.1:8080/boot/agent/vmlinuz initrd=initrd0 \
gc.mac=${netX/mac} gc.ip=${netX/ip} gc.mask=${netX/netmask} gc.gw=${netX/gateway} gc.dns=${netX/dns} \
gc.server=10.77.0.1 gc.http=8080 gc.https=8443 console=tty0 console=ttyS0,115200 loglevel=6 panic=10 || goto failed
initrd --name initrd0 http://10.77.0.1:8080/boot/agent/initrd%20img || goto failed
boot || goto failed
:failed
echo groundcrew: the agent could not be loaded (try ${try} of 3); see the line above
iseq ${try} 3 && goto giveup ||
inc try
sleep 3
goto again
:giveup
echo groundcrew: giving up; starting its own disk
sanboot --no-describe --drive 0x80 ||
echo groundcrew: going back to the firmware, which tries its next boot device
exit 1
";
    assert_eq!(
        agent().script(&settings(), "QEMU 4711", Some(Firmware::Bios)),
        expected
    );
    let lab = ScriptSettings {
        on_failure: OnFailure::Shell,
        ..settings()
    };
    let text = agent().script(&lab, "", Some(Firmware::Efi));
    assert!(text.ends_with("exit leaves it\nshell\nexit 1\n"), "{text}");
    assert!(!text.contains("this device is"));
}

#[test]
fn the_own_disk_is_booted_as_the_firmware_wants_it() {
    let own = BootDecision::OwnDisk {
        why: "provisioned as LAB-7".into(),
    };
    let efi = own.script(&settings(), "x", Some(Firmware::Efi));
    assert!(
        efi.contains("starting its own disk\nchain http://10.77.0.1:8080/boot/local.efi ||\n")
            && efi.ends_with("exit 1\n"),
        "{efi}"
    );
    let bios = own.script(&settings(), "x", Some(Firmware::Bios));
    assert!(
        bios.contains("\nsanboot --no-describe --drive 0x80 ||\n") && bios.ends_with("exit 1\n")
    );
    let unknown = own.script(&settings(), "x", None);
    assert!(unknown.contains("iseq ${platform} efi && goto efi ||\nsanboot"));
    assert!(unknown.contains("\ngoto leave\n:efi\nchain ") && unknown.contains("\n:leave\n"));
}

#[test]
fn a_device_on_hold_asks_again() {
    let hold = BootDecision::Hold {
        message: "held: see the technician".into(),
        seconds: 0,
    };
    let text = hold.script(&settings(), "x", None);
    let url = script_url(settings().http);
    assert!(
        text.ends_with(&format!(
            ":again\nsleep 1\nchain --replace --autofree {url} || goto again\n"
        )),
        "{text}"
    );
}

#[test]
fn the_first_script_chains_to_the_text_of_the_device() {
    let text = first_script(&settings());
    let url = script_url(settings().http);
    assert!(
        text.contains(&format!(
            "\nchain --replace --autofree {url} || goto failed\n"
        )),
        "{text}"
    );
    assert!(text.starts_with("#!ipxe\n") && text.ends_with("exit 1\n"));
}

#[test]
fn kernel_arguments_are_one_word_without_syntax() {
    for wrong in [
        "", "a b", "x=${y}", "a\\", "a\"b", "a||b", "a#b", "a\nb", "é",
    ] {
        assert!(KernelArg::new(wrong).is_err(), "{wrong}");
    }
    assert_eq!(KernelArg::new("ip=a:b,c/d").unwrap().as_str(), "ip=a:b,c/d");
    assert_eq!(
        plain("A\n#!ipxe  shell ${x} || && \\"),
        "A??!ipxe shell ??x? ?? ?? ?"
    );
}

/// The commands a text can contain, whatever is put into it.
const COMMANDS: [&str; 15] = [
    "#!ipxe", "echo", "set", "imgfree", "kernel", "initrd", "boot", "iseq", "inc", "sleep", "goto",
    "sanboot", "exit", "chain", "isset",
];

proptest! {
    #[test]
    fn nothing_from_outside_becomes_a_command(device in "[ -~\n\r\t\u{0}é]{0,60}", why in "[a-z ${}|&#\\\\\n:-]{0,40}") {
        let hostile = ScriptSettings { site: why.clone(), ..settings() };
        let decisions = [agent(), BootDecision::OwnDisk { why: why.clone() }, BootDecision::Hold { message: why, seconds: 5 }];
        for decision in decisions {
            let text = decision.script(&hostile, &device, None);
            let harmless = decision.script(&settings(), "x", None);
            for line in text.lines() {
                let command = line.split(' ').next().unwrap();
                prop_assert!(command.starts_with(':') || COMMANDS.contains(&command), "{}", line);
                // An echo line from outside neither expands, nor chains, nor continues.
                if command == "echo" && !line.contains("(try ${try} of") {
                    prop_assert!(!line.contains(['$', '|', '&', '#', '\\', '\r']), "{}", line);
                }
                prop_assert!(!line.ends_with('\\'));
                if command != "echo" {
                    prop_assert!(harmless.lines().any(|known| known == line), "{}", line);
                }
            }
        }
    }
}
