//! The services that the tests measure: Debian's packages, unpacked into the cache. Installed packages would start
//! the services on this machine.

use std::path::PathBuf;

use anyhow::Result;

use crate::host::apt;
use crate::host::cache::Cache;

/// The environment variable that holds the directory of the packages for the tests.
pub const VARIABLE: &str = "ZC_SERVICES";

/// The services and clients, with the libraries that a minimal Debian lacks.
const PACKAGES: &str = "\
    nginx openssl redis-server redis-tools liblzf1 libjemalloc2 wrk libluajit-5.1-2 \
    postgresql-15 postgresql-client-15 libpq5 libcom-err2 libgssapi-krb5-2 libicu72 \
    libk5crypto3 libkeyutils1 libkrb5-3 libkrb5support0 libldap-2.5-0 libreadline8 libsasl2-2 \
    libxml2";

const PROGRAMS: [&str; 6] = [
    "usr/sbin/nginx",
    "usr/bin/openssl",
    "usr/bin/redis-server",
    "usr/bin/wrk",
    "usr/lib/postgresql/15/bin/postgres",
    "usr/lib/postgresql/15/bin/psql",
];

/// The root directory of the unpacked packages.
pub fn prepare(cache: &Cache) -> Result<PathBuf> {
    let packages: Vec<_> = PACKAGES.split_whitespace().collect();
    apt::cached(cache, "services", &packages, &PROGRAMS)
}
