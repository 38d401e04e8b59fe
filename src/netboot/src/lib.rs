//! The boot side, pure: DHCP, PXE, TFTP conversations, iPXE text.
