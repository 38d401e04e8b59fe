//! The records of graphics adapters, and text in UTF-16 as both they and network
//! adapters hold it.

/// Record 29. Layout of the first two numbers: `MrWyss/DecodeAutopilotHash`,
/// `utils/autopilotutility.py`; their unit is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphicsMemory {
    /// The adapter's own memory.
    pub video: u32,
    /// System memory set aside for it.
    pub system: u32,
    /// Not understood.
    pub rest: [u8; 10],
}

impl GraphicsMemory {
    pub(super) fn read(data: &[u8]) -> Option<Self> {
        let (video, data) = data.split_first_chunk()?;
        let (system, rest) = data.split_first_chunk()?;
        Some(Self {
            video: u32::from_le_bytes(*video),
            system: u32::from_le_bytes(*system),
            rest: rest.try_into().ok()?,
        })
    }

    pub(super) fn data(self) -> Vec<u8> {
        let numbers = [self.video.to_le_bytes(), self.system.to_le_bytes()];
        [&numbers.concat()[..], &self.rest].concat()
    }
}

/// Text of UTF-16LE; none where it is not that.
pub(super) fn from_utf16(bytes: &[u8]) -> Option<String> {
    let units = bytes.chunks_exact(2).map(|pair| match pair {
        [low, high] => u16::from_le_bytes([*low, *high]),
        _ => 0,
    });
    String::from_utf16(&units.collect::<Vec<_>>()).ok()
}

/// The bytes of a text in UTF-16LE.
pub(super) fn to_utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}
