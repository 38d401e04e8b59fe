use std::net::SocketAddrV4;

use proptest::prelude::*;

use super::*;
use crate::ipxe::{AgentBoot, AgentFiles, KernelArg, Menu, OnFailure};

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

fn menu(default: BootDecision) -> BootDecision {
    let BootDecision::Agent(agent) = agent() else {
        unreachable!()
    };
    BootDecision::Menu(Menu {
        default: Box::new(default),
        seconds: 8,
        agent,
        memtest: true,
    })
}

#[test]
fn grub_shows_a_menu_that_goes_on_by_itself() {
    let request = of("grub/grub.cfg").unwrap();
    let own = BootDecision::OwnDisk { why: "done".into() };
    for (default, word) in [(agent(), "agent"), (own, "disk")] {
        let text = request.text(&menu(default), &settings(), "S-1", None);
        let head = format!("set default={word}\nset timeout_style=menu\nset timeout=8\n");
        assert!(text.contains(&head), "{text}");
        let agent = text.find("menuentry 'Provision this device' --id agent {\n");
        let disk = text.find("menuentry 'Start its own disk' --id disk {\n");
        let kernel = text.find("if linux '(tftp,10.77.0.1)/vmlinuz'");
        assert!(agent < kernel && kernel < disk, "{text}");
        assert!(agent.is_some() && text.ends_with("fi\n}\n"), "{text}");
    }
}

#[test]
fn pxelinux_asks_for_a_word_and_goes_on_by_itself() {
    let request = of("pxelinux.cfg/default").unwrap();
    let own = BootDecision::OwnDisk { why: "done".into() };
    let text = request.text(&menu(own), &settings(), "", None);
    assert!(
        text.starts_with("DEFAULT disk\nPROMPT 1\nTIMEOUT 80\n"),
        "{text}"
    );
    assert!(text.contains("LABEL agent\n  LINUX ::vmlinuz\n"), "{text}");
    assert!(
        text.ends_with("LABEL disk\n  LOCALBOOT 0\n") && !text.contains("LABEL groundcrew"),
        "{text}"
    );
}

#[test]
fn why_a_device_is_held_can_be_read_in_every_language() {
    for cause in crate::story::Cause::ALL {
        let held = BootDecision::Held {
            lines: vec![
                format!("Likely: {}", cause.likely()),
                format!("Cure: {}", cause.cure()),
            ],
            seconds: 60,
        };
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        for (name, begin, end) in [
            ("grub.cfg", "echo 'groundcrew: ", "'"),
            ("pxelinux.cfg/default", "SAY groundcrew: ", ""),
        ] {
            let text = of(name).unwrap().text(&held, &settings(), "", None);
            let screen = text.lines().filter_map(|line| line.strip_prefix(begin));
            let screen: Vec<_> = screen
                .map(|line| line.strip_suffix(end).unwrap().replace("'\\''", "'"))
                .collect();
            assert!(screen.len() < 18, "a screen has 25 lines: {screen:#?}");
            assert!(screen.iter().all(|line| line.len() <= 66), "{screen:#?}");
            let screen = words(&screen.join(" "));
            for said in [cause.likely(), cause.cure()] {
                // Marks of TOML are all that a loader cannot show.
                let said: String = said.replace('`', "'").replace(['"', '[', ']'], "?");
                assert!(screen.contains(&words(&said)), "{said}\n{screen}");
            }
        }
        let text = of("pxelinux.cfg/default")
            .unwrap()
            .text(&held, &settings(), "", None);
        assert!(text.contains("PROMPT 1\nTIMEOUT 600\n"), "{text}");
    }
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
                BootDecision::Held { lines: vec![words.clone(), words.repeat(9)], seconds: 3 },
                menu(BootDecision::OwnDisk { why: words.clone() }),
            ] {
                let harmless = request.text(&decision, &settings(), "x", None);
                for line in request.text(&decision, &hostile, &words, None).lines() {
                    match line.strip_prefix(prefix) {
                        // In pxelinux nothing means anything behind SAY.
                        Some(said) => {
                            // An apostrophe that is meant ends the quotes for itself alone.
                            let said = said.replace("'\\''", "");
                            prop_assert!(
                                name != "grub.cfg" || said.find('\'') == Some(said.len() - 1),
                                "{}", line
                            );
                        }
                        None => prop_assert!(harmless.lines().any(|known| known == line), "{}", line),
                    }
                }
            }
        }
    }
}
