//! Real services that the tests measure: Debian's packages, unpacked into the cache, since installed
//! ones would start.

use std::path::PathBuf;

use anyhow::Result;

use crate::host::apt;
use crate::host::cache::Cache;

/// Tells the tests where the packages lie.
pub const VARIABLE: &str = "ZC_SERVICES";

/// What the tests start, with the libraries that no other package of a small machine brings.
const PACKAGES: [&str; 22] = [
    "nginx",
    "openssl",
    "redis-server",
    "redis-tools",
    "liblzf1",
    "libjemalloc2",
    "wrk",
    "libluajit-5.1-2",
    "postgresql-15",
    "postgresql-client-15",
    "libpq5",
    "libcom-err2",
    "libgssapi-krb5-2",
    "libicu72",
    "libk5crypto3",
    "libkeyutils1",
    "libkrb5-3",
    "libkrb5support0",
    "libldap-2.5-0",
    "libreadline8",
    "libsasl2-2",
    "libxml2",
];

const PROGRAMS: [&str; 6] = [
    "usr/sbin/nginx",
    "usr/bin/openssl",
    "usr/bin/redis-server",
    "usr/bin/wrk",
    "usr/lib/postgresql/15/bin/postgres",
    "usr/lib/postgresql/15/bin/psql",
];

/// The directory that stands for `/` in the packages.
pub fn prepare(cache: &Cache) -> Result<PathBuf> {
    apt::cached(cache, "services", &PACKAGES, &PROGRAMS)
}
