//! The boot image: kernel, modules, agent, trust root.
