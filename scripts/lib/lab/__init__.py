"""The real-firmware lab: QEMU machines with an installed Debian, switched on in
front of a real `groundcrew serve`.

    say         what is said on the terminal, always with seconds
    host        what this machine can do (root, tools, KVM), and Debian's packages
    oem         the installed Debian ("OEM disk"), made once and cached
    hwhash      Autopilot's 4K hash for the SMBIOS values a machine is given
    kinds       the one table of firmware kinds: machine, loader, Secure Boot
    secure      OVMF's variables with a certificate enrolled
    oem_signed  the OEM disk with Debian's signed loaders
    oem_arm     the OEM disk for 64-bit ARM
    foreign     Debian's packages for 64-bit ARM
    peer        dnsmasq with the same files, to be measured beside
    matrix      every kind, one after the other, and a table
    network     namespaces, bridge, taps
    machine     one QEMU machine: command line, serial line, QMP
    milestones  the one table of what is recognised in serial lines and in the log
    timeline    milestones of one device, folded into seconds per phase
    appliance   the one place that calls the `groundcrew` command
    scenario    the lab's story, from nothing to the verdict
    stages      a menu on the screen, an order for one boot, firmware that will not
    initrd      the boot image without a driver, for one of them
    attacks     rogues in the middle, the agent's word, its disk afterwards
    rogue       the man in the middle, a program of its own
    verify      what lies on a disk afterwards, read offline

Standard library only; nothing is left behind (see `scenario.Lab`).
"""
