//! Links in the documents: a relative link must lead to a file, and to a heading of it where it names one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// Directories without documents of the project.
const SKIPPED: [&str; 2] = [".git", "target"];

/// Checks every Markdown file below `root`; the error has a line for each broken link.
pub fn check(root: &Path) -> Result<()> {
    let mut files = Vec::new();
    collect(root, &mut files)?;
    let mut documents = BTreeMap::new();
    for file in files {
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        documents.insert(file, Document::parse(&text));
    }
    let mut broken = Vec::new();
    for (file, document) in &documents {
        for link in &document.links {
            if let Some(reason) = fault(&documents, file, link) {
                let shown = file.strip_prefix(root).unwrap_or(file).display();
                broken.push(format!("{shown}: {link}: {reason}"));
            }
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    bail!("broken links:\n  {}", broken.join("\n  "));
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && !path.is_symlink() {
            if !SKIPPED.contains(&&*name) {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "md") {
            files.push(path);
        }
    }
    Ok(())
}

/// The links and headings of a Markdown text.
#[derive(Default)]
struct Document {
    links: Vec<String>,
    anchors: BTreeSet<String>,
}

impl Document {
    fn parse(text: &str) -> Self {
        let mut document = Self::default();
        let mut used = HashMap::new();
        let mut heading = None;
        for event in Parser::new_ext(text, Options::ENABLE_TABLES | Options::ENABLE_FOOTNOTES) {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    document.links.push(dest_url.into_string());
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let anchor = anchor(&heading.take().unwrap_or_default());
                    let count = used.entry(anchor.clone()).or_insert(0u32);
                    document.anchors.insert(match *count {
                        0 => anchor,
                        _ => format!("{anchor}-{count}"),
                    });
                    *count += 1;
                }
                Event::Text(text) | Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                _ => {}
            }
        }
        document
    }
}

/// The anchor that GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    heading
        .trim()
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            _ => c.is_alphanumeric().then_some(c),
        })
        .collect()
}

/// Why a link of `file` leads nowhere, if it does. Links to other machines are not followed.
fn fault(documents: &BTreeMap<PathBuf, Document>, file: &Path, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, fragment) = match link.split_once('#') {
        Some((path, fragment)) => (path, Some(fragment)),
        None => (link, None),
    };
    let target = if path.is_empty() {
        file.to_owned()
    } else {
        normal(&file.with_file_name("").join(path))
    };
    if !target.exists() {
        return Some("there is no such file".into());
    }
    let fragment = fragment?;
    match documents.get(&target) {
        Some(document) if document.anchors.contains(fragment) => None,
        Some(_) => Some(format!("there is no heading #{fragment}")),
        // Lines of source code.
        None if fragment.starts_with('L') => None,
        None => Some("only Markdown files have headings".into()),
    }
}

/// The path without `.` and `..`, which the keys of the documents have not.
fn normal(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => _ = result.pop(),
            Component::CurDir => {}
            part => result.push(part),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(files: &[(&str, &str)]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        match check(directory.path()) {
            Ok(()) => Vec::new(),
            Err(error) => error
                .to_string()
                .lines()
                .skip(1)
                .map(|line| line.trim().to_owned())
                .collect(),
        }
    }

    #[test]
    fn links_to_files_and_headings_are_followed() {
        let files = [
            (
                "README.md",
                "# A `b` & c: d\n[x](docs/a.md#one-two-1) ![y](docs/p.svg) [z](#a-b--c-d)\n\
                 [far](https://example.org/#x) [ref][r] `[code](no.md)`\n\n[r]: docs/a.md\n",
            ),
            (
                "docs/a.md",
                "## One two\n## One two\n[up](../README.md) [dir](.)\n",
            ),
            ("docs/p.svg", ""),
            ("target/b.md", "[broken](nowhere)"),
        ];
        assert_eq!(checked(&files), Vec::<String>::new());
    }

    #[test]
    fn each_broken_link_is_named() {
        let files = [
            ("a.md", "# A\n[x](b.md#c) [y](no.md) [z](#b) [p](p.svg#a)\n"),
            ("d/b.md", "[x](../b.md#b)"),
            ("b.md", "# B\n"),
            ("p.svg", ""),
        ];
        assert_eq!(
            checked(&files),
            [
                "a.md: b.md#c: there is no heading #c",
                "a.md: no.md: there is no such file",
                "a.md: #b: there is no heading #b",
                "a.md: p.svg#a: only Markdown files have headings",
            ]
        );
    }
}
