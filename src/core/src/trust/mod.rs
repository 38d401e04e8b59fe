//! Trust: TUF, the charter.
