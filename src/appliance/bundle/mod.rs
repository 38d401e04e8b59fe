//! Bundles on the appliance: built from a source folder, kept as an OCI layout.
