//! A reader of the kernel's own type information (BTF, `Documentation/bpf/btf.rst`): offsets of
//! members, values of enumerators, numbers of arguments.
//!
//! aya relocates no field accesses of programs written in Rust, so user space looks the offsets up.

use std::{collections::HashMap, fs, io, path::Path};

use thiserror::Error;

/// Why type information could not be read.
#[derive(Debug, Error)]
pub enum BtfError {
    /// The file could not be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes are no BTF.
    #[error("BTF is malformed at byte {0}")]
    Malformed(usize),
    /// A kind of type that is newer than this reader.
    #[error("BTF has a type of unknown kind {0}")]
    UnknownKind(u8),
}

/// What the kernel says of its types and functions.
#[derive(Debug)]
pub struct Btf {
    data: Vec<u8>,
    strings: usize,
    /// Byte offset of each type, by id; id 0 is void.
    types: Vec<usize>,
    named: HashMap<(Kind, String), usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Struct,
    Function,
    Typedef,
    Enum,
}

pub(crate) const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;
const HEADER_FIELDS: usize = 8;
const COMMON: usize = 12;

/// How many anonymous members are looked into for one name: no structure of a kernel has as many, and in malformed
/// BTF a structure may contain itself.
const ANONYMOUS_LIMIT: u32 = 1_000;

const KIND_STRUCT: u8 = 4;
const KIND_UNION: u8 = 5;
const KIND_ENUM: u8 = 6;
const KIND_FWD: u8 = 7;
const KIND_TYPEDEF: u8 = 8;
const KIND_VOLATILE: u8 = 9;
const KIND_CONST: u8 = 10;
const KIND_RESTRICT: u8 = 11;
const KIND_FUNC: u8 = 12;
const KIND_FUNC_PROTO: u8 = 13;
const KIND_TYPE_TAG: u8 = 18;
const KIND_ENUM64: u8 = 19;

/// Bytes behind a type's common part: fixed, and for each of its `vlen` parts.
const fn trailer(kind: u8) -> Option<(usize, usize)> {
    Some(match kind {
        1 | 14 | 17 => (4, 0),
        3 => (12, 0),
        4 | 5 | 15 | 19 => (0, 12),
        6 | 13 => (0, 8),
        2 | 7..=12 | 16 | 18 => (0, 0),
        _ => return None,
    })
}

impl Btf {
    /// Reads the running kernel's.
    ///
    /// # Errors
    ///
    /// If the kernel has none (`CONFIG_DEBUG_INFO_BTF`), or if it cannot be understood.
    pub fn of_kernel() -> Result<Self, BtfError> {
        let path = Path::new("/sys/kernel/btf/vmlinux");
        let data = fs::read(path).map_err(|source| BtfError::Read {
            path: path.display().to_string(),
            source,
        })?;
        Self::parse(data)
    }

    /// What aya needs of it to attach to these functions and tracepoints, under the ids of the whole:
    /// aya goes through all names for each program that it loads.
    ///
    /// # Errors
    ///
    /// If aya does not understand it.
    pub fn for_aya(
        &self,
        functions: impl Iterator<Item = &'static str>,
        tracepoints: impl Iterator<Item = &'static str>,
    ) -> Result<aya::Btf, aya::BtfError> {
        let functions = functions.map(|name| (Kind::Function, KIND_FUNC, name.to_owned()));
        let typedefs = tracepoints.map(|name| (Kind::Typedef, KIND_TYPEDEF, callback(name)));
        let mut strings = vec![0];
        let mut types = Vec::new();
        for (kind, number, name) in functions.chain(typedefs) {
            let Some(id) = self
                .find(kind, &name)
                .and_then(|at| self.types.binary_search(&at).ok())
            else {
                continue;
            };
            // Ids begin at 1, and what has no name is a forward declaration of nothing.
            types.resize(types.len().max(id), [0, u32::from(KIND_FWD) << 24, 0]);
            types[id - 1] = [word(strings.len()), u32::from(number) << 24, 0];
            strings.extend(name.bytes().chain([0]));
        }
        let length = word(types.len() * COMMON);
        let header = [
            u32::from(MAGIC) | 1 << 16,
            word(HEADER),
            0,
            length,
            length,
            word(strings.len()),
        ];
        let words = header.iter().chain(types.as_flattened());
        let data: Vec<u8> = words
            .flat_map(|word| word.to_ne_bytes())
            .chain(strings)
            .collect();
        aya::Btf::parse(&data, aya::Endianness::default())
    }

    /// Understands type information.
    ///
    /// # Errors
    ///
    /// If it is malformed, or has kinds that this reader does not know.
    pub fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let mut btf = Self {
            data,
            strings: 0,
            types: vec![0],
            named: HashMap::new(),
        };
        if btf.u32(0)? & 0xffff != u32::from(MAGIC) {
            return Err(BtfError::Malformed(0));
        }
        let header = btf.u32(4)? as usize;
        let section = |field: usize| -> Result<usize, BtfError> {
            Ok(btf.u32(HEADER_FIELDS + 4 * field)? as usize)
        };
        let (types, types_length, strings) = (section(0)?, section(1)?, section(2)?);
        btf.strings = header + strings;
        let mut at = header + types;
        let end = at + types_length;
        if end > btf.data.len() {
            return Err(BtfError::Malformed(btf.data.len()));
        }
        while at < end {
            let (kind, parts) = btf.kind(at)?;
            let (fixed, each) = trailer(kind).ok_or(BtfError::UnknownKind(kind))?;
            btf.types.push(at);
            let indexed = match kind {
                KIND_STRUCT => Some(Kind::Struct),
                KIND_FUNC => Some(Kind::Function),
                KIND_TYPEDEF => Some(Kind::Typedef),
                KIND_ENUM | KIND_ENUM64 => Some(Kind::Enum),
                _ => None,
            };
            if let Some(indexed) = indexed {
                let name = btf.string(btf.u32(at)?)?.to_owned();
                if !name.is_empty() {
                    btf.named.entry((indexed, name)).or_insert(at);
                }
            }
            at += COMMON + fixed + each * parts;
            if at > end {
                return Err(BtfError::Malformed(end));
            }
        }
        Ok(btf)
    }

    /// Whether the kernel has a function of that name that BTF describes.
    #[must_use]
    pub fn has_function(&self, name: &str) -> bool {
        self.find(Kind::Function, name).is_some()
    }

    /// How many arguments a function takes.
    #[must_use]
    pub fn function_arguments(&self, name: &str) -> Option<usize> {
        let function = self.find(Kind::Function, name)?;
        self.prototype_arguments(self.referred(function)?)
    }

    /// How many arguments a tracepoint passes to raw and BTF-typed programs.
    #[must_use]
    pub fn tracepoint_arguments(&self, name: &str) -> Option<usize> {
        let typedef = self.find(Kind::Typedef, &callback(name))?;
        let pointer = self.referred(typedef)?;
        // The first argument of the kernel's own callback is its private data.
        self.prototype_arguments(self.referred(pointer)?)?
            .checked_sub(1)
    }

    /// The byte offset of a member, given as a path through structures: `thread_info.status`.
    /// Anonymous members on the way are looked into.
    #[must_use]
    pub fn member(&self, structure: &str, path: &str) -> Option<u32> {
        let mut at = self.find(Kind::Struct, structure)?;
        let mut offset = 0u32;
        for name in path.split('.') {
            let (bits, member) = self.member_of(at, name)?;
            offset = offset.checked_add(bits)?;
            at = member;
        }
        offset.is_multiple_of(8).then_some(offset / 8)
    }

    /// The byte offset of a member of one bit, and the bit in that byte.
    #[must_use]
    pub fn bit(&self, structure: &str, name: &str) -> Option<(u32, u32)> {
        let (bits, _) = self.member_of(self.find(Kind::Struct, structure)?, name)?;
        Some((bits / 8, 1 << (bits % 8)))
    }

    /// The size of a structure in bytes.
    #[must_use]
    pub fn size(&self, structure: &str) -> Option<u32> {
        self.u32(self.find(Kind::Struct, structure)? + 8).ok()
    }

    /// The value of an enumerator.
    #[must_use]
    pub fn enumerator(&self, name: &str, enumerator: &str) -> Option<u32> {
        let at = self.find(Kind::Enum, name)?;
        let (kind, parts) = self.kind(at).ok()?;
        let size = trailer(kind)?.1;
        (0..parts)
            .map(|part| at + COMMON + part * size)
            .find_map(|part| {
                let found = self.string(self.u32(part).ok()?).ok()? == enumerator;
                found.then(|| self.u32(part + 4).ok())?
            })
    }

    fn find(&self, kind: Kind, name: &str) -> Option<usize> {
        self.named.get(&(kind, name.to_owned())).copied()
    }

    fn prototype_arguments(&self, at: usize) -> Option<usize> {
        match self.kind(at).ok()? {
            (KIND_FUNC_PROTO, parts) => Some(parts),
            _ => None,
        }
    }

    /// The member's offset in bits and the place of its type.
    fn member_of(&self, structure: usize, name: &str) -> Option<(u32, usize)> {
        self.member_within(structure, name, &mut { ANONYMOUS_LIMIT })
    }

    /// Looks into at most `left` anonymous members on the way.
    fn member_within(&self, structure: usize, name: &str, left: &mut u32) -> Option<(u32, usize)> {
        let (_, parts) = self.kind(structure).ok()?;
        let bitfields = self.u32(structure + 4).ok()? >> 31 == 1;
        (0..parts)
            .map(|part| structure + COMMON + part * 12)
            .find_map(|part| {
                let member_name = self.string(self.u32(part).ok()?).ok()?;
                let member = self.resolved(self.u32(part + 4).ok()?)?;
                let mut offset = self.u32(part + 8).ok()?;
                if bitfields {
                    offset &= 0x00ff_ffff;
                }
                if member_name == name {
                    return Some((offset, member));
                }
                if member_name.is_empty()
                    && matches!(self.kind(member).ok()?.0, KIND_STRUCT | KIND_UNION)
                {
                    *left = left.checked_sub(1)?;
                    let (inner, found) = self.member_within(member, name, left)?;
                    return Some((offset.checked_add(inner)?, found));
                }
                None
            })
    }

    /// The place of the type a pointer, typedef or function refers to.
    fn referred(&self, at: usize) -> Option<usize> {
        self.resolved(self.u32(at + 8).ok()?)
    }

    /// The place of a type behind its names and qualifiers.
    fn resolved(&self, mut id: u32) -> Option<usize> {
        // Longer chains than this are malformed.
        for _ in 0..32 {
            let at = *self.types.get(id as usize)?;
            match self.kind(at).ok()?.0 {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    id = self.u32(at + 8).ok()?;
                }
                _ => return Some(at),
            }
        }
        None
    }

    fn kind(&self, at: usize) -> Result<(u8, usize), BtfError> {
        let info = self.u32(at + 4)?;
        Ok(((info >> 24 & 0x1f) as u8, (info & 0xffff) as usize))
    }

    fn u32(&self, at: usize) -> Result<u32, BtfError> {
        let bytes = self.data.get(at..at + 4).ok_or(BtfError::Malformed(at))?;
        Ok(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn string(&self, offset: u32) -> Result<&str, BtfError> {
        let start = self.strings + offset as usize;
        let rest = self.data.get(start..).ok_or(BtfError::Malformed(start))?;
        let end = rest
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(BtfError::Malformed(start))?;
        std::str::from_utf8(&rest[..end]).map_err(|_| BtfError::Malformed(start))
    }
}

/// The type by which BTF knows a tracepoint.
fn callback(tracepoint: &str) -> String {
    format!("btf_trace_{tracepoint}")
}

/// Type information is far smaller than what the format can hold.
fn word(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use aya_obj::btf::BtfKind;

    use super::*;

    /// `struct outer { int a; struct { int b; }; struct inner { int c; } in; }`, an enum, a function
    /// of two arguments and a tracepoint of one.
    fn sample() -> Vec<u8> {
        let mut strings = vec![0u8];
        let mut name = |text: &str| {
            let offset = u32::try_from(strings.len()).unwrap();
            strings.extend(text.bytes().chain([0]));
            offset
        };
        let (outer, inner, a, b, c, within) = (
            name("outer"),
            name("inner"),
            name("a"),
            name("b"),
            name("c"),
            name("in"),
        );
        let (colour, red, green) = (name("colour"), name("RED"), name("GREEN"));
        let (flags, first, second) = (name("flags"), name("first"), name("second"));
        let (function, tracepoint, int) = (name("moved"), name("btf_trace_tick"), name("int"));
        let info = |kind: u32, parts: u32| kind << 24 | parts;
        let types: Vec<u32> = [
            vec![int, info(1, 0), 4, 32],                                  // 1
            vec![0, info(4, 1), 4, b, 1, 0],                               // 2: anonymous
            vec![inner, info(4, 1), 4, c, 1, 0],                           // 3
            vec![0, info(10, 0), 3],                                       // 4: const inner
            vec![outer, info(4, 3), 12, a, 1, 0, 0, 2, 32, within, 4, 64], // 5
            vec![colour, info(6, 2), 4, red, 1, green, 7],                 // 6
            vec![0, info(13, 2), 1, 0, 1, 0, 1],                           // 7
            vec![function, info(12, 1), 7],                                // 8
            vec![0, info(2, 0), 7],                                        // 9: pointer to 7
            vec![tracepoint, info(8, 0), 9],                               // 10
            vec![
                flags,
                1 << 31 | info(4, 2),
                4,
                first,
                1,
                1 << 24,
                second,
                1,
                1 << 24 | 1,
            ], // 11: of bits
        ]
        .concat();
        let length = u32::try_from(types.len() * 4).unwrap();
        let header = [
            u32::from(MAGIC) | 1 << 16,
            24,
            0,
            length,
            length,
            u32::try_from(strings.len()).unwrap(),
        ];
        let words = header
            .iter()
            .chain(&types)
            .flat_map(|word| word.to_ne_bytes());
        words.chain(strings).collect()
    }

    #[test]
    fn members_enumerators_and_arguments_are_found() {
        let btf = Btf::parse(sample()).expect("parse");
        assert_eq!(btf.member("outer", "a"), Some(0));
        assert_eq!(
            btf.member("outer", "b"),
            Some(4),
            "through an anonymous member"
        );
        assert_eq!(
            btf.member("outer", "in.c"),
            Some(8),
            "through a const member"
        );
        assert_eq!(btf.member("outer", "in.d"), None);
        assert_eq!(btf.bit("outer", "b"), Some((4, 1)));
        assert_eq!(btf.bit("flags", "second"), Some((0, 2)));
        assert_eq!(btf.bit("flags", "third"), None);
        assert_eq!(btf.member("flags", "second"), None, "no whole byte");
        assert_eq!(btf.size("outer"), Some(12));
        assert_eq!(btf.enumerator("colour", "GREEN"), Some(7));
        assert_eq!(btf.enumerator("colour", "BLUE"), None);
        assert_eq!(btf.function_arguments("moved"), Some(2));
        assert_eq!(
            btf.function_arguments("outer"),
            None,
            "a structure is no function"
        );
        assert_eq!(btf.tracepoint_arguments("tick"), Some(1));
    }

    #[test]
    fn aya_finds_what_it_needs_under_the_same_ids() {
        let btf = Btf::parse(sample()).expect("parse");
        let whole = aya::Btf::parse(&sample(), aya::Endianness::default()).expect("aya");
        let part = btf
            .for_aya(["absent", "moved"].into_iter(), ["tick"].into_iter())
            .expect("aya");
        for (name, kind) in [
            ("moved", BtfKind::Func),
            ("btf_trace_tick", BtfKind::Typedef),
        ] {
            let id = part.id_by_type_name_kind(name, kind).expect(name);
            assert_eq!(id, whole.id_by_type_name_kind(name, kind).expect(name));
        }
        let nothing = btf.for_aya([].into_iter(), [].into_iter()).expect("aya");
        assert!(
            nothing
                .id_by_type_name_kind("moved", BtfKind::Func)
                .is_err()
        );
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(matches!(Btf::parse(vec![]), Err(BtfError::Malformed(0))));
        assert!(Btf::parse(vec![0xff; 64]).is_err());
        let whole = sample();
        for length in 0..whole.len() {
            // Truncation inside the strings is found on use, before that on parsing.
            let _ = Btf::parse(whole[..length].to_vec()).map(|btf| btf.member("outer", "in.c"));
        }
        let mut unknown = whole;
        unknown[24 + 7] = 31;
        assert!(matches!(
            Btf::parse(unknown),
            Err(BtfError::UnknownKind(31))
        ));
    }

    /// The sample with other words among its types, given by their index.
    fn changed(words: &[(usize, u32)]) -> Btf {
        let mut data = sample();
        for (index, word) in words {
            data[HEADER + index * 4..][..4].copy_from_slice(&word.to_ne_bytes());
        }
        Btf::parse(data).expect("parse")
    }

    #[test]
    fn a_structure_that_contains_itself_ends_the_search() {
        // The anonymous structure's only member is the structure itself, and anonymous too.
        let btf = changed(&[(7, 0), (8, 2)]);
        assert_eq!(btf.member("outer", "b"), None);
        assert_eq!(btf.member("outer", "a"), Some(0));
    }

    #[test]
    fn a_tracepoint_without_private_data_has_no_arguments() {
        // The pointer becomes a prototype without arguments that refers to itself.
        let btf = changed(&[(49, 13 << 24), (50, 9)]);
        assert_eq!(btf.tracepoint_arguments("tick"), None);
    }

    #[test]
    fn an_offset_beyond_the_format_is_no_offset() {
        // The offset of the anonymous member of `outer`, and of the member in it.
        let btf = changed(&[(9, u32::MAX), (27, u32::MAX)]);
        assert_eq!(btf.member("outer", "b"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(change in 0usize..200, value: u8) {
            let mut data = sample();
            let at = change % data.len();
            data[at] = value;
            if let Ok(btf) = Btf::parse(data) {
                let _ = btf.member("outer", "in.c");
                let _ = btf.tracepoint_arguments("tick");
                let _ = btf.enumerator("colour", "GREEN");
            }
        }
    }
}
