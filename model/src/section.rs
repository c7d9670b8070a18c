//! One declaration per configuration key: name, type, default and documentation.

/// A documented configuration key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Name inside its table, such as `n_layers`.
    pub name: &'static str,
    /// Rust type, such as `usize` or `Option<String>`.
    pub kind: &'static str,
    /// What the key does.
    pub doc: &'static str,
}

/// Declares a table of configuration keys.
///
/// Every field carries its documentation and its default; the struct gets `Default`, serde and `KEYS`,
/// from which the reference page and the error messages are made.
#[macro_export]
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        pub struct $name:ident {
            $( $(#[doc = $doc:literal])+ pub $field:ident : $kind:ty = $default:expr, )*
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, ::serde::Serialize, ::serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $field: $kind, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }

        impl $name {
            /// Every key of this table with its documentation.
            pub const KEYS: &'static [$crate::section::Key] = &[
                $( $crate::section::Key {
                    name: stringify!($field),
                    kind: stringify!($kind),
                    doc: concat!($($doc, "\n"),+),
                }, )*
            ];
        }
    };
}
