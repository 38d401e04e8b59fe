//! CSV of every shape that occurs, row by row.

use std::io::{BufRead as _, BufReader, Read};

use groundcrew_core::Digest;
use groundcrew_core::hardware::hash4k::{HardwareHash, HashError};
use groundcrew_core::hardware::identity::{clean, serial_key};
use groundcrew_core::ids::shown;

use super::text::{Lines, Utf8, field};
use crate::device::{Registration, Tag, TagError};

/// The most bytes of one row; a hash has 4000.
const MAX_ROW: usize = 32 * 1024;

/// What a file looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A header that names its columns: Intune, Get-WindowsAutopilotInfo, MDM
    /// diagnostics, Partner Center.
    Header,
    /// Device preparation's corporate identifiers: no header, and in each row
    /// `manufacturer,model,serial`.
    Preparation,
}

/// A file that cannot be read as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Nothing in it.
    #[error("the file has no rows")]
    Empty,
    /// A header with a column nobody knows.
    #[error(
        "column `{0}` is not known; known are {KNOWN}. Rename it, or pass it over with --ignore-columns"
    )]
    Column(String),
    /// A header with the same column twice.
    #[error("column `{0}` is there twice")]
    Twice(String),
    /// Neither header nor three columns.
    #[error("the first row is neither a header ({KNOWN}) nor `manufacturer,model,serial`")]
    Header,
    /// More rows than are read at once.
    #[error("the file has more than {0} rows: split it")]
    TooMany(u64),
    /// The bytes cannot be read, or a quote is never closed.
    #[error("the file cannot be read: {0}")]
    Csv(#[from] csv::Error),
    /// The bytes cannot be read.
    #[error("the file cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// The caller's entropy repeats itself.
    #[error("no free name for a device: the random source repeats itself")]
    Names,
}

const KNOWN: &str = "`Device Serial Number`, `Windows Product ID`, `Hardware Hash`, `Group Tag`, \
                     `Assigned User`, `Manufacturer name`, `Device model`";

/// The column that a file of rejects has after all others.
pub const REFUSED: &str = "Refused";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Serial,
    ProductId,
    Hash,
    Tag,
    User,
    Manufacturer,
    Model,
    /// Why a row was refused, as a file of rejects has it: read and not used.
    Refused,
    /// Something of somebody else's: passed over.
    Other,
}

/// What to do with columns that are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unknown {
    /// The file is refused: a name may be mistyped.
    Refuse,
    /// They are passed over.
    PassOver,
}

impl Column {
    /// The name that Intune and Partner Center take.
    const fn name(self) -> &'static str {
        match self {
            Self::Serial => "Device Serial Number",
            Self::ProductId => "Windows Product ID",
            Self::Hash => "Hardware Hash",
            Self::Tag => "Group Tag",
            Self::User => "Assigned User",
            Self::Manufacturer => "Manufacturer name",
            Self::Model => "Device model",
            Self::Refused => REFUSED,
            Self::Other => "",
        }
    }

    /// Spelling varies: Intune insists on its case, Partner Center's own template
    /// and everybody's scripts do not.
    fn named(text: &str) -> Option<Self> {
        let compact: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
        Some(match compact.to_ascii_lowercase().as_str() {
            "deviceserialnumber" | "serialnumber" => Self::Serial,
            "windowsproductid" | "productid" => Self::ProductId,
            "hardwarehash" => Self::Hash,
            "grouptag" | "orderid" => Self::Tag,
            "assigneduser" => Self::User,
            "manufacturername" | "manufacturer" => Self::Manufacturer,
            "devicemodel" | "model" => Self::Model,
            "refused" => Self::Refused,
            _ => return None,
        })
    }
}

/// Why a row is refused before anybody looks at the registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowFault {
    /// The hash is damaged.
    #[error("{0}")]
    Hash(#[from] HashError),
    /// The serial number is not the one in the hash.
    #[error("the serial number is `{row}`, the hardware hash says `{hash}`")]
    Serial {
        /// In the row.
        row: String,
        /// In the hash.
        hash: String,
    },
    /// What a spreadsheet made of a serial number.
    #[error(
        "the serial number `{0}` is what a spreadsheet made of a long one: take it from the original file, and do not save that with a spreadsheet"
    )]
    Spreadsheet(String),
    /// A field that goes on in the next line.
    #[error(
        "a quote is opened and not closed in its line, so that {lines} line(s) after it are no rows: close or remove it"
    )]
    LineBreak {
        /// Line ends inside.
        lines: usize,
    },
    /// More fields than the header has.
    #[error(
        "the row has {found} fields, the header {expected}: a comma too many, or a quote missing"
    )]
    Columns {
        /// In the header.
        expected: usize,
        /// In the row.
        found: usize,
    },
    /// Far too long.
    #[error("the row has {0} bytes; at most {MAX_ROW} are read: a quote may be missing")]
    TooLong(usize),
    /// A bad tag.
    #[error("{0}")]
    Tag(TagError),
}

/// One row: where it stands and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The line it begins at, from 1.
    pub line: u64,
    /// Its serial number, for people.
    pub serial: Option<String>,
    /// What stands in the file, in the order of [`Rows::columns`]; empty where
    /// the row is far too long.
    pub fields: Vec<String>,
    /// Its hardware hash, where it has one that is whole.
    pub hash: Option<HardwareHash>,
    /// What it registers.
    pub content: Result<Registration, RowFault>,
}

/// The rows of a file.
pub struct Rows<R> {
    reader: csv::Reader<BufReader<Lines<Utf8<R>>>>,
    /// What stands between fields: a comma, or what spreadsheets of some
    /// countries write instead, a semicolon or a tab.
    pub delimiter: u8,
    columns: Vec<(Column, String)>,
    /// What kind of file it is.
    pub shape: Shape,
    /// A first row that is no header.
    first: Option<csv::ByteRecord>,
    source: String,
}

impl<R: Read> Rows<R> {
    /// Reads the header. `source` names the file for people.
    pub fn new(bytes: R, source: &str) -> Result<Self, ImportError> {
        Self::read(bytes, source, Unknown::Refuse)
    }

    /// The same, but columns that are not known are passed over.
    pub fn passing_over(bytes: R, source: &str) -> Result<Self, ImportError> {
        Self::read(bytes, source, Unknown::PassOver)
    }

    fn read(bytes: R, source: &str, unknown: Unknown) -> Result<Self, ImportError> {
        let mut lines = BufReader::new(Lines::new(Utf8::new(bytes)?));
        let delimiter = delimiter(lines.fill_buf()?);
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(delimiter)
            .from_reader(lines);
        let mut first = csv::ByteRecord::new();
        if !reader.read_byte_record(&mut first)? {
            return Err(ImportError::Empty);
        }
        let names: Vec<String> = first.iter().map(field).collect();
        let known = names.iter().filter_map(|name| Column::named(name)).count();
        let (shape, columns, first) = if known > 0 {
            (Shape::Header, header(&names, unknown)?, None)
        } else if names.len() == 3 {
            let columns = [Column::Manufacturer, Column::Model, Column::Serial];
            let columns = columns.map(|column| (column, column.name().to_owned()));
            (Shape::Preparation, columns.to_vec(), Some(first))
        } else {
            return Err(ImportError::Header);
        };
        Ok(Self {
            reader,
            delimiter,
            columns,
            shape,
            first,
            source: source.to_owned(),
        })
    }

    fn row(&self, record: &csv::ByteRecord) -> Row {
        // Every line ends in an LF and the reader stands after this record's, so
        // it counts back; the record's own position is that of blank lines
        // before it.
        let inside = record.as_slice().iter().filter(|b| **b == b'\n').count() as u64;
        // A quote that is never closed takes the file's last line end inside.
        let open = self.reader.get_ref().get_ref().ended() && record.as_slice().ends_with(b"\n");
        let own = u64::from(!open);
        let line = self.reader.position().line().saturating_sub(own + inside);
        let value = |column| {
            let place = self.columns.iter().position(|(c, _)| *c == column);
            let text = place.and_then(|place| record.get(place)).map(field);
            text.filter(|text| !text.trim().is_empty())
        };
        let checked = self.check(record);
        let whole = !matches!(checked, Err(RowFault::TooLong(_)));
        let hash = value(Column::Hash).filter(|_| whole);
        let hash = hash.map(|text| HardwareHash::from_text(&text)).transpose();
        let content = checked.and_then(|()| {
            let hash = hash.as_ref().map_err(Clone::clone)?;
            self.content(hash.as_ref(), value)
        });
        Row {
            line,
            serial: value(Column::Serial).as_deref().and_then(clean),
            fields: record.iter().filter(|_| whole).map(field).collect(),
            hash: hash.unwrap_or_default(),
            content,
        }
    }

    /// The names of the file's columns, as Intune and Partner Center write them,
    /// and others as they stand.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(_, name)| name.as_str())
    }

    fn check(&self, record: &csv::ByteRecord) -> Result<(), RowFault> {
        let length = record.as_slice().len();
        if length > MAX_ROW {
            return Err(RowFault::TooLong(length));
        }
        let beyond = record.iter().skip(self.columns.len());
        if beyond.clone().any(|extra| !extra.trim_ascii().is_empty()) {
            return Err(RowFault::Columns {
                expected: self.columns.len(),
                found: record.len(),
            });
        }
        let inside = |field: &[u8]| field.iter().filter(|byte| **byte == b'\n').count();
        match record.iter().map(inside).sum() {
            0 => Ok(()),
            lines => Err(RowFault::LineBreak { lines }),
        }
    }

    fn content(
        &self,
        hash: Option<&HardwareHash>,
        value: impl Fn(Column) -> Option<String>,
    ) -> Result<Registration, RowFault> {
        let text = |column| value(column).as_deref().and_then(clean);
        let mut identity = hash.map(HardwareHash::identity).unwrap_or_default();
        let serial = text(Column::Serial);
        if let Some(serial) = serial.as_deref().filter(|serial| scientific(serial)) {
            return Err(RowFault::Spreadsheet(shown(serial)));
        }
        if let (Some(row), Some(hash)) = (&serial, &identity.serial)
            && serial_key(row) != serial_key(hash)
        {
            return Err(RowFault::Serial {
                row: shown(row),
                hash: shown(hash),
            });
        }
        identity.serial = identity.serial.or(serial);
        identity.manufacturer = identity.manufacturer.or(text(Column::Manufacturer));
        identity.product = identity.product.or(text(Column::Model));
        let tag = text(Column::Tag).map(Tag::try_from).transpose();
        let digest = hash.map(HardwareHash::to_bytes).transpose()?;
        Ok(Registration {
            identity,
            tag: tag.map_err(RowFault::Tag)?,
            user: text(Column::User),
            product_id: text(Column::ProductId),
            hash: digest.map(|bytes| Digest::of(&bytes)),
            source: self.source.clone(),
        })
    }
}

fn header(names: &[String], unknown: Unknown) -> Result<Vec<(Column, String)>, ImportError> {
    let mut columns: Vec<(Column, String)> = Vec::new();
    // Editors leave empty columns at the end.
    let used = names.iter().rposition(|name| !name.trim().is_empty());
    for name in names.iter().take(used.map_or(0, |last| last + 1)) {
        let column = match (Column::named(name), unknown) {
            (Some(column), _) => column,
            (None, Unknown::PassOver) => Column::Other,
            (None, Unknown::Refuse) => return Err(ImportError::Column(shown(name))),
        };
        let known = column != Column::Other;
        if known && columns.iter().any(|(earlier, _)| *earlier == column) {
            return Err(ImportError::Twice(shown(name)));
        }
        let name = if known { column.name() } else { name };
        columns.push((column, name.to_owned()));
    }
    Ok(columns)
}

/// What stands between the fields of a file that begins like this.
fn delimiter(start: &[u8]) -> u8 {
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or(start);
    let first = [b',', b';', b'\t']
        .into_iter()
        .find(|delimiter| line.contains(delimiter));
    first.unwrap_or(b',')
}

/// `8.12346E+11`: a spreadsheet took a number for a quantity.
fn scientific(text: &str) -> bool {
    let Some((number, power)) = text.split_once("E+") else {
        return false;
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = number.replacen(['.', ','], "", 1);
    digits(&number) && digits(power)
}

/// Blanks and nothing else: spreadsheets leave rows of mere commas.
fn blank(record: &csv::ByteRecord) -> bool {
    record.iter().all(|field| field.trim_ascii().is_empty())
}

impl<R: Read> Iterator for Rows<R> {
    type Item = Result<Row, ImportError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(first) = self.first.take() {
            return Some(Ok(self.row(&first)));
        }
        let mut record = csv::ByteRecord::new();
        loop {
            match self.reader.read_byte_record(&mut record) {
                Ok(true) if blank(&record) => {}
                Ok(true) => return Some(Ok(self.row(&record))),
                Ok(false) => return None,
                Err(error) => return Some(Err(error.into())),
            }
        }
    }
}
