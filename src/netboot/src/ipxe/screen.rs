//! Screens of iPXE for people: why a device is held, a menu, the shell, the
//! memory test. All commands are in Debian's build (`prompt`, `menu`, `choose`).

use std::net::SocketAddrV4;

use super::script::{BootDecision, write_own_disk, write_to};
use super::script::{Firmware, Menu, ScriptSettings, lines, plain, say, write_agent};

/// The memory test's files below `/boot/`: an EFI program, and one that a PC
/// BIOS starts like a kernel (as Debian's memtest86+ brings both).
pub const MEMTEST_EFI: &str = "memtest.efi";
/// See [`MEMTEST_EFI`].
pub const MEMTEST_BIOS: &str = "memtest.bin";

/// The longest line that fits a text screen behind `groundcrew: `.
const LINE: usize = 66;

pub fn write_held(
    text: &mut String,
    settings: &ScriptSettings,
    words: &[String],
    seconds: u16,
    firmware: Option<Firmware>,
) {
    lines(text, &["echo"]);
    for word in words {
        for line in folded(word) {
            say(text, &line);
        }
    }
    lines(text, &["echo"]);
    let ms = u32::from(seconds) * 1000;
    write_to(
        text,
        format_args!(
            "prompt --timeout {ms} groundcrew: its own disk starts in {seconds} s, or at any key ||\n"
        ),
    );
    write_own_disk(text, settings, firmware);
}

pub fn write_menu(
    text: &mut String,
    settings: &ScriptSettings,
    menu: &Menu,
    firmware: Option<Firmware>,
) {
    let default = match *menu.default {
        BootDecision::Agent(_) => "agent",
        _ => "disk",
    };
    let ms = u32::from(menu.seconds.max(1)) * 1000;
    write_to(text, format_args!("menu {}\n", plain(&settings.site)));
    lines(
        text,
        &[
            "item agent Provision this device",
            "item disk Start its own disk",
        ],
    );
    // The memory test is for x86.
    let memtest = menu.memtest && firmware != Some(Firmware::EfiArm64);
    if memtest {
        lines(text, &["item memtest Test its memory"]);
    }
    lines(text, &["item shell Shell of iPXE, for experts"]);
    // Escape means what happens by itself.
    write_to(
        text,
        format_args!("choose --default {default} --timeout {ms} choice || set choice {default}\n"),
    );
    lines(text, &["goto menu_${choice}", ":menu_agent"]);
    write_agent(text, settings, &menu.agent, firmware);
    lines(text, &[":menu_disk"]);
    write_own_disk(text, settings, firmware);
    if memtest {
        lines(text, &[":menu_memtest"]);
        write_memtest(text, settings, firmware);
    }
    lines(text, &[":menu_shell"]);
    write_shell(text);
}

pub fn write_shell(text: &mut String) {
    say(text, "this is the shell of iPXE, exit leaves it");
    lines(text, &["shell", "exit 1"]);
}

pub fn write_memtest(text: &mut String, settings: &ScriptSettings, firmware: Option<Firmware>) {
    if firmware == Some(Firmware::EfiArm64) {
        say(text, "there is no memory test for this processor");
        return write_own_disk(text, settings, firmware);
    }
    say(
        text,
        "loading the memory test; it runs until it is switched off",
    );
    let base = boot_url(settings.http);
    let efi = format!("chain {base}/{MEMTEST_EFI} ||");
    let bios = format!("kernel {base}/{MEMTEST_BIOS} && boot ||");
    match firmware {
        Some(Firmware::Efi | Firmware::EfiArm64) => lines(text, &[&efi]),
        Some(Firmware::Bios) => lines(text, &[&bios]),
        None => {
            let ask = "iseq ${platform} efi && goto memtest_efi ||";
            let leave = ":memtest_leave";
            lines(
                text,
                &[
                    ask,
                    &bios,
                    "goto memtest_leave",
                    ":memtest_efi",
                    &efi,
                    leave,
                ],
            );
        }
    }
    say(text, "the memory test did not start; starting its own disk");
    write_own_disk(text, settings, firmware);
}

fn boot_url(http: SocketAddrV4) -> String {
    format!("{}/boot", super::http_origin(http))
}

/// Lines of a text screen that are not broken inside a word. Backquotes mark
/// commands in our texts and are nothing on a loader's screen.
pub(crate) fn folded(text: &str) -> Vec<String> {
    let mut folded = vec![String::new()];
    for word in text.replace('`', "'").split_whitespace() {
        match folded.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= LINE => {
                line.push(' ');
                line.push_str(word);
            }
            _ => folded.push(word.to_owned()),
        }
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::super::{AgentBoot, AgentFiles, OnFailure};
    use super::*;

    fn settings() -> ScriptSettings {
        ScriptSettings {
            http: "10.77.0.1:80".parse().unwrap(),
            https_port: 443,
            appliance: "groundcrew".into(),
            site: "hq ${evil}".into(),
            attempts: 3,
            on_failure: OnFailure::OwnDisk,
        }
    }

    fn agent() -> AgentBoot {
        AgentBoot {
            files: AgentFiles::standard("").unwrap(),
            arm64: AgentFiles::standard(crate::ARM64).unwrap(),
            args: vec![],
        }
    }

    fn script(decision: &BootDecision, firmware: Option<Firmware>) -> String {
        decision.script(&settings(), "SYNTH-1", firmware)
    }

    #[test]
    fn a_held_device_says_why_on_its_screen() {
        let held = BootDecision::Held {
            lines: vec![
                "held: it failed the same way 3 times".into(),
                format!(
                    "cure: {} `groundcrew boot release X` ${{evil}}",
                    "word ".repeat(40)
                ),
            ],
            seconds: 30,
        };
        let text = script(&held, Some(Firmware::Bios));
        assert!(text.contains("groundcrew: held: it failed"), "{text}");
        assert!(text.contains("groundcrew boot release X"), "{text}");
        assert!(text.contains("prompt --timeout 30000 ") && text.contains("sanboot"));
        assert!(!text.contains("evil}") && !text.contains('`'), "{text}");
        let shown = text
            .lines()
            .filter(|line| line.starts_with("echo groundcrew"));
        assert!(shown.clone().all(|line| line.len() <= 5 + 80), "{text}");
        assert!(shown.count() > 4);
    }

    #[test]
    fn a_menu_ends_by_itself_in_what_would_have_been() {
        for (default, word) in [
            (BootDecision::Agent(agent()), "agent"),
            (BootDecision::OwnDisk { why: "x".into() }, "disk"),
        ] {
            let menu = BootDecision::Menu(Menu {
                default: Box::new(default),
                seconds: 8,
                agent: agent(),
                memtest: word == "agent",
            });
            for firmware in [Some(Firmware::Bios), Some(Firmware::Efi), None] {
                let text = script(&menu, firmware);
                let choose =
                    format!("choose --default {word} --timeout 8000 choice || set choice {word}\n");
                assert!(text.contains(&choose), "{text}");
                let items = text.lines().filter_map(|line| line.strip_prefix("item "));
                for item in items {
                    let label = format!("\n:menu_{}\n", item.split(' ').next().unwrap());
                    assert!(text.contains(&label), "{label}: {text}");
                }
                assert_eq!(text.contains("memtest"), word == "agent");
                assert!(!text.contains("evil}"), "{text}");
            }
        }
    }

    #[test]
    fn shell_and_memory_test() {
        assert!(script(&BootDecision::Shell, None).contains("\nshell\nexit 1\n"));
        let text = script(&BootDecision::Memtest, Some(Firmware::Efi));
        assert!(
            text.contains("chain http://10.77.0.1/boot/memtest.efi ||"),
            "{text}"
        );
        let text = script(&BootDecision::Memtest, Some(Firmware::Bios));
        assert!(
            text.contains("kernel http://10.77.0.1/boot/memtest.bin && boot ||"),
            "{text}"
        );
    }
}
