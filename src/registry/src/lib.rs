//! The site's side, pure: matching, device lifecycle, profiles, journal.
