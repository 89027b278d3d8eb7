//! What the files are called.
//!
//! | name | what it is |
//! |---|---|
//! | `00000007.data` | blobs and trees of generation 7: one process' writing, only appended to |
//! | `00000007.00000003.index` | the third state of it |
//! | `*.tmp` | an index that is not whole yet |
//! | `lock` | whoever holds it writes here |

/// A state: which generation, and which index of it. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Named {
    pub(super) generation: u64,
    pub(super) commit: u64,
}

/// A file of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum File {
    Data(u64),
    Index(Named),
    /// Of an index that was never finished.
    Temporary,
}

impl Named {
    pub(super) fn data(self) -> String {
        data(self.generation)
    }

    pub(super) fn index(self) -> String {
        format!("{:08}.{:08}.index", self.generation, self.commit)
    }

    pub(super) fn temporary(self) -> String {
        format!("{}.tmp", self.index())
    }
}

pub(super) fn data(generation: u64) -> String {
    format!("{generation:08}.data")
}

/// What `name` is; `None` for what is not ours.
pub(super) fn read(name: &str) -> Option<File> {
    let file = match name.split('.').collect::<Vec<_>>()[..] {
        [generation, "data"] => File::Data(generation.parse().ok()?),
        [generation, commit, "index"] => {
            File::Index(Named { generation: generation.parse().ok()?, commit: commit.parse().ok()? })
        }
        [_, _, "index", "tmp"] => File::Temporary,
        _ => return None,
    };
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_it_is() {
        let named = Named { generation: 7, commit: 123_456_789 };
        assert_eq!(read(&named.data()), Some(File::Data(7)));
        assert_eq!(read(&named.index()), Some(File::Index(named)));
        assert_eq!(read(&named.temporary()), Some(File::Temporary));
        for other in ["lock", "x.data", "1.data.bak", "", "1.index", "1.2.index.bak"] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
