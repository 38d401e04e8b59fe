//! The apply engine: makes an installed system what a bundle says.
