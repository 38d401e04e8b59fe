//! Bundles: signed sets of steps and content.
