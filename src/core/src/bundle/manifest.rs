//! The OCI image manifest of a bundle, and the index of a layout that holds
//! it (OCI image specification 1.1). The manifest's bytes are the TUF target.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::config::Config;
use super::limits;
use crate::digest::Digest;
use crate::ids::{Slug, Version, shown};

/// Media types: OCI's own, and ours.
pub mod media {
    /// An OCI image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// What the artifact is.
    pub const BUNDLE: &str = "application/vnd.groundcrew.bundle.v1";
    /// The configuration blob.
    pub const CONFIG: &str = "application/vnd.groundcrew.bundle.config.v1+json";
    /// The content tree: ustar in zstd.
    pub const TREE: &str = "application/vnd.groundcrew.bundle.tree.v1.tar+zstd";
    /// One large file, as it is.
    pub const FILE: &str = "application/vnd.groundcrew.bundle.file.v1";
}

/// The text of the file `oci-layout`.
pub const OCI_LAYOUT: &str = "{\"imageLayoutVersion\":\"1.0.0\"}";

const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A blob as a manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// The digest of its bytes as they are stored.
    pub digest: Digest,
    /// Its size as stored, bytes.
    pub size: u64,
}

impl Descriptor {
    /// The content tree's blob.
    pub fn tree(digest: Digest, size: u64) -> Self {
        Self {
            media_type: media::TREE.into(),
            digest,
            size,
        }
    }

    /// A large file's blob.
    pub fn file(digest: Digest, size: u64) -> Self {
        Self {
            media_type: media::FILE.into(),
            digest,
            size,
        }
    }
}

/// What a manifest names besides the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// The content tree, where there are small files.
    pub tree: Option<Descriptor>,
    /// The large files.
    pub files: Vec<Descriptor>,
}

/// A bundle's manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    name: Slug,
    version: Version,
    config: Descriptor,
    layers: Layers,
}

/// Bytes that are not a bundle's manifest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManifestError {
    /// Not JSON of this shape.
    #[error("cannot be read: {0}")]
    Json(String),
    /// Another kind of thing.
    #[error("{what} has the media type `{found}`; expected `{expected}`")]
    MediaType {
        /// Which part.
        what: &'static str,
        /// What it says.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
    /// Too many or too large.
    #[error("{0}")]
    Limit(&'static str),
    /// Anything else that does not fit.
    #[error("{0}")]
    Other(String),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawManifest {
    schema_version: u32,
    media_type: String,
    artifact_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
    annotations: Annotations,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Annotations {
    #[serde(rename = "org.opencontainers.image.title")]
    title: Slug,
    #[serde(rename = "org.opencontainers.image.version")]
    version: Version,
}

impl Manifest {
    /// The manifest of `config`, whose blob is `config_bytes`.
    pub fn new(
        config: &Config,
        config_bytes: &[u8],
        mut layers: Layers,
    ) -> Result<Self, ManifestError> {
        layers.files.sort_by_key(|blob| blob.digest);
        layers.files.dedup();
        let config_blob = Descriptor {
            media_type: media::CONFIG.into(),
            digest: Digest::of(config_bytes),
            size: config_bytes.len() as u64,
        };
        let manifest = Self {
            name: config.name.clone(),
            version: config.version,
            config: config_blob,
            layers,
        };
        manifest.check()?;
        Ok(manifest)
    }

    /// Reads the bytes of a manifest.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > limits::MANIFEST {
            return Err(ManifestError::Limit("longer than 1 MiB"));
        }
        let raw: RawManifest =
            serde_json::from_slice(bytes).map_err(|err| ManifestError::Json(err.to_string()))?;
        expect("the manifest", &raw.media_type, media::MANIFEST)?;
        expect("the artifact", &raw.artifact_type, media::BUNDLE)?;
        if raw.schema_version != 2 {
            return Err(ManifestError::Other("schemaVersion is not 2".into()));
        }
        let mut layers = Layers::default();
        for layer in raw.layers {
            if layer.media_type == media::TREE && layers.tree.is_none() && layers.files.is_empty() {
                layers.tree = Some(layer);
            } else {
                expect("a layer", &layer.media_type, media::FILE)?;
                layers.files.push(layer);
            }
        }
        let Annotations {
            title: name,
            version,
        } = raw.annotations;
        let manifest = Self {
            name,
            version,
            config: raw.config,
            layers,
        };
        manifest.check()?;
        Ok(manifest)
    }

    /// The bytes of the manifest: the same for the same bundle.
    pub fn to_bytes(&self) -> Vec<u8> {
        let layers = self
            .layers
            .tree
            .iter()
            .chain(&self.layers.files)
            .cloned()
            .collect();
        let raw = RawManifest {
            schema_version: 2,
            media_type: media::MANIFEST.into(),
            artifact_type: media::BUNDLE.into(),
            config: self.config.clone(),
            layers,
            annotations: Annotations {
                title: self.name.clone(),
                version: self.version,
            },
        };
        #[allow(
            clippy::expect_used,
            reason = "strings and numbers only: writing to memory cannot fail"
        )]
        serde_json::to_vec(&raw).expect("a manifest is plain JSON")
    }

    /// The bundle's name.
    pub fn name(&self) -> &Slug {
        &self.name
    }

    /// The bundle's version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The configuration blob.
    pub fn config(&self) -> &Descriptor {
        &self.config
    }

    /// The content tree's blob.
    pub fn tree(&self) -> Option<&Descriptor> {
        self.layers.tree.as_ref()
    }

    /// The large files' blobs.
    pub fn files(&self) -> &[Descriptor] {
        &self.layers.files
    }

    /// Every blob, the configuration first: what a device downloads.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.config)
            .chain(&self.layers.tree)
            .chain(&self.layers.files)
    }

    /// Bytes of all blobs together.
    pub fn total_size(&self) -> u64 {
        self.blobs().map(|blob| blob.size).sum()
    }

    fn check(&self) -> Result<(), ManifestError> {
        expect("the configuration", &self.config.media_type, media::CONFIG)?;
        if self.config.size > limits::CONFIG {
            return Err(ManifestError::Limit("the configuration exceeds 8 MiB"));
        }
        if self.layers.files.len() >= limits::BLOBS {
            return Err(ManifestError::Limit(
                "more than 255 large files: pack some into an archive",
            ));
        }
        if self.blobs().any(|blob| blob.size > limits::BLOB) {
            return Err(ManifestError::Limit("a blob exceeds 64 GiB"));
        }
        let mut seen = BTreeSet::new();
        match self.blobs().find(|blob| !seen.insert(blob.digest)) {
            Some(blob) => Err(ManifestError::Other(format!(
                "the blob {} is listed twice",
                blob.digest
            ))),
            None => Ok(()),
        }
    }
}

fn expect(what: &'static str, found: &str, expected: &'static str) -> Result<(), ManifestError> {
    if found == expected {
        return Ok(());
    }
    Err(ManifestError::MediaType {
        what,
        found: shown(found),
        expected,
    })
}

/// The `index.json` of an OCI layout that holds one bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The digest of the manifest.
    pub manifest: Digest,
    /// Its size, bytes.
    pub size: u64,
}

impl Index {
    /// The bytes of `index.json`; the bundle's version is the tag.
    pub fn to_bytes(&self, version: Version) -> Vec<u8> {
        let index = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media::INDEX,
            "manifests": [{
                "mediaType": media::MANIFEST,
                "artifactType": media::BUNDLE,
                "digest": self.manifest,
                "size": self.size,
                "annotations": { REF_NAME: version },
            }],
        });
        index.to_string().into_bytes()
    }

    /// Reads `index.json`. Tools that copy a layout may add annotations or
    /// leave some out; only what is needed is looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct RawIndex {
            manifests: Vec<RawEntry>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct RawEntry {
            media_type: String,
            digest: Digest,
            size: u64,
        }
        if bytes.len() as u64 > limits::MANIFEST {
            return Err(ManifestError::Limit("longer than 1 MiB"));
        }
        let raw: RawIndex =
            serde_json::from_slice(bytes).map_err(|err| ManifestError::Json(err.to_string()))?;
        let [entry] = raw.manifests.as_slice() else {
            let count = raw.manifests.len();
            return Err(ManifestError::Other(format!(
                "expected one manifest in the layout, found {count}"
            )));
        };
        expect("the manifest", &entry.media_type, media::MANIFEST)?;
        if entry.size > limits::MANIFEST {
            return Err(ManifestError::Limit("the manifest exceeds 1 MiB"));
        }
        Ok(Self {
            manifest: entry.digest,
            size: entry.size,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> String {
        let d = |c: &str| format!("sha256:{}", c.repeat(64));
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","artifactType":"{}","config":{{"mediaType":"{}","digest":"{}","size":10}},"layers":[{{"mediaType":"{}","digest":"{}","size":20}},{{"mediaType":"{}","digest":"{}","size":9000000}}],"annotations":{{"org.opencontainers.image.title":"welcome","org.opencontainers.image.version":"1.2.0"}}}}"#,
            media::MANIFEST,
            media::BUNDLE,
            media::CONFIG,
            d("a"),
            media::TREE,
            d("b"),
            media::FILE,
            d("c"),
        )
    }

    #[test]
    fn reads_and_writes_the_same_bytes() {
        let manifest = Manifest::parse(sample().as_bytes()).unwrap();
        assert_eq!(String::from_utf8(manifest.to_bytes()).unwrap(), sample());
        assert_eq!(manifest.blobs().count(), 3);
        assert_eq!(manifest.total_size(), 9_000_030);
    }

    #[test]
    fn strangers_are_refused() {
        for (from, to, why) in [
            (
                media::TREE,
                "application/vnd.oci.image.layer.v1.tar",
                "a layer has the media type",
            ),
            (media::FILE, media::TREE, "a layer has the media type"),
            (
                media::CONFIG,
                "application/vnd.oci.image.config.v1+json",
                "the configuration has the media type",
            ),
            (
                media::BUNDLE,
                "application/x",
                "the artifact has the media type",
            ),
            (
                "\"schemaVersion\":2",
                "\"schemaVersion\":1",
                "schemaVersion",
            ),
            ("\"size\":10", "\"size\":99999999", "configuration exceeds"),
            ("\"size\":20", "\"size\":99999999999999", "64 GiB"),
            ("\"size\":20", "\"size\":-1", "cannot be read"),
            ("\"layers\"", "\"urls\":[],\"layers\"", "cannot be read"),
            (&"c".repeat(64), &"b".repeat(64), "listed twice"),
        ] {
            let bad = sample().replacen(from, to, 1);
            let told = Manifest::parse(bad.as_bytes()).unwrap_err().to_string();
            assert!(told.contains(why), "{to}: {told}");
        }
        assert!(Manifest::parse(&vec![b' '; 2 << 20]).is_err());
    }

    #[test]
    fn an_index_names_one_manifest() {
        let index = Index {
            manifest: Digest::of(b"m"),
            size: 7,
        };
        let bytes = index.to_bytes("1.0".parse().unwrap());
        assert_eq!(Index::parse(&bytes), Ok(index));
        assert!(Index::parse(b"{\"manifests\":[]}").is_err());
    }

    proptest! {
        #[test]
        fn changed_bytes_never_panic(at in 0usize..600, byte in any::<u8>()) {
            let mut bytes = sample().into_bytes();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            let _ = Manifest::parse(&bytes);
            let _ = Index::parse(&bytes);
        }
    }
}
