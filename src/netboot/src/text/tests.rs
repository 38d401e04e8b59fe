use std::net::SocketAddrV4;

use proptest::prelude::*;

use super::*;
use crate::ipxe::{AgentBoot, AgentFiles, KernelArg, OnFailure};

fn of(name: &str) -> Option<TextRequest> {
    TextRequest::of(&BootPath::from_tftp(name).unwrap())
}

fn settings() -> ScriptSettings {
    ScriptSettings {
        http: SocketAddrV4::new([10, 77, 0, 1].into(), 80),
        https_port: 443,
        appliance: "crew".into(),
        site: "lab".into(),
        attempts: 3,
        on_failure: OnFailure::OwnDisk,
    }
}

fn agent() -> BootDecision {
    BootDecision::Agent(AgentBoot {
        files: AgentFiles::standard("").unwrap(),
        arm64: AgentFiles::standard("arm64").unwrap(),
        args: vec![KernelArg::new("panic=10").unwrap()],
    })
}

#[test]
fn names_say_who_asks_and_in_which_language() {
    let mac = Machine::Mac("52:54:00:77:00:01".parse().unwrap());
    let uuid = Machine::Uuid("a1b2c3d4-e5f6-4789-8abc-000000000001".parse().unwrap());
    for (name, syntax, machine) in [
        ("autoexec.ipxe", Syntax::Ipxe, Machine::Asking),
        ("/grub/grub.cfg-01-52-54-00-77-00-01", Syntax::Grub, mac),
        ("grub/x86_64-efi/grub.cfg", Syntax::Grub, Machine::Asking),
        (
            "grub/grub.cfg-a1b2c3d4-e5f6-4789-8abc-000000000001",
            Syntax::Grub,
            uuid,
        ),
        ("pxelinux.cfg/01-52-54-00-77-00-01", Syntax::Pxelinux, mac),
        (
            "bios/pxelinux.cfg/A1B2C3D4-E5F6-4789-8ABC-000000000001",
            Syntax::Pxelinux,
            uuid,
        ),
        ("pxelinux.cfg/default", Syntax::Pxelinux, Machine::Asking),
    ] {
        assert_eq!(of(name), Some(TextRequest { syntax, machine }), "{name}");
    }
    for ordinary in [
        "vmlinuz",
        "pxelinux.cfg/0A4D0082",
        "pxelinux.cfg/graphics.cfg",
        "grub/grub.cfg-0A4D",
        "grub/grub.cfgx",
        "grub/grub.cfg-01-52-54-00-77-00-zz",
        "pxelinux.cfg/20-52-54-00-77-00-01",
    ] {
        assert_eq!(of(ordinary), None, "{ordinary}");
    }
}

#[test]
fn grub_loads_the_agent_or_starts_the_disk() {
    let request = of("grub/grub.cfg").unwrap();
    let text = request.text(&agent(), &settings(), "S-1", None);
    let kernel = "if linux '(tftp,10.77.0.1)/vmlinuz' gc.server=10.77.0.1 gc.http=80 gc.https=443 \
        console=tty0 console=ttyS0,115200 loglevel=6 gc.mac=$net_default_mac 'panic=10'; \
        then if initrd '(tftp,10.77.0.1)/initrd.img'; then boot; fi; fi\n";
    assert!(text.contains(kernel), "{text}");
    assert!(!text.contains("gc.ip"), "GRUB knows no mask: {text}");
    let arm = "if [ \"$grub_cpu\" = arm64 ]; then\nif linux '(tftp,10.77.0.1)/arm64/vmlinuz' gc.server=10.77.0.1 \
        gc.http=80 gc.https=443 console=tty0 console=ttyAMA0,115200 loglevel=6 ";
    assert!(text.contains(arm), "{text}");
    assert!(text.starts_with(
        "echo 'groundcrew: crew serves site lab'\necho 'groundcrew: this device is S-1'\n"
    ));
    let own = BootDecision::OwnDisk { why: "done".into() };
    let text = request.text(&own, &settings(), "", None);
    assert!(
        text.contains("chainloader $loader") && !text.contains("linux '"),
        "{text}"
    );
}

#[test]
fn pxelinux_loads_the_agent_or_starts_the_disk() {
    let request = of("pxelinux.cfg/default").unwrap();
    let mac = "52:54:00:77:00:01".parse().ok();
    let expected = "\
DEFAULT groundcrew
PROMPT 0
SAY groundcrew: crew serves site lab
SAY groundcrew: loading the agent from 10.77.0.1
ONERROR LOCALBOOT 0
LABEL groundcrew
  LINUX ::vmlinuz
  INITRD ::initrd.img
  APPEND gc.server=10.77.0.1 gc.http=80 gc.https=443 console=tty0 console=ttyS0,115200 loglevel=6 gc.mac=52:54:00:77:00:01 panic=10
";
    assert_eq!(request.text(&agent(), &settings(), "", mac), expected);
    let own = BootDecision::OwnDisk { why: "done".into() };
    let text = request.text(&own, &settings(), "S-1", mac);
    assert!(
        text.ends_with("LABEL groundcrew\n  LOCALBOOT 0\n"),
        "{text}"
    );
}

#[test]
fn ipxe_is_sent_to_the_url_that_tells_its_serial_number() {
    let text = of("boot.ipxe")
        .unwrap()
        .text(&agent(), &settings(), "", None);
    assert!(
        text.contains("chain --replace --autofree http://10.77.0.1/ipxe?mac="),
        "{text}"
    );
}

proptest! {
    #[test]
    fn nothing_from_outside_becomes_a_command(words in "[ -~\n\r\té]{0,60}") {
        let hostile = ScriptSettings { site: words.clone(), ..settings() };
        for (name, prefix) in [("grub.cfg", "echo 'groundcrew: "), ("pxelinux.cfg/default", "SAY groundcrew: ")] {
            let request = of(name).unwrap();
            for decision in [
                agent(),
                BootDecision::OwnDisk { why: words.clone() },
                BootDecision::Hold { message: words.clone(), seconds: 3 },
            ] {
                let harmless = request.text(&decision, &settings(), "x", None);
                for line in request.text(&decision, &hostile, &words, None).lines() {
                    match line.strip_prefix(prefix) {
                        // In pxelinux nothing means anything behind SAY.
                        Some(said) => prop_assert!(
                            name != "grub.cfg" || !said.trim_end_matches('\'').contains('\''),
                            "{}", line
                        ),
                        None => prop_assert!(harmless.lines().any(|known| known == line), "{}", line),
                    }
                }
            }
        }
    }
}
