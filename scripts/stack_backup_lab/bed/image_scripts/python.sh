#!/usr/bin/env bash
# Builds Python out of /source.tar.xz into /usr/local, with the switches of the public image's recipe, but without what takes
# most of its time and leaves nothing in it: profiling runs, the modules of its own tests, bytecode.
set -euo pipefail

mkdir /build
cd /build
tar --extract --file /source.tar.xz --strip-components 1
./configure --quiet --enable-shared --enable-loadable-sqlite-extensions --enable-option-checking=fatal --with-ensurepip \
  --disable-test-modules
make --jobs "$(nproc)" EXTRA_CFLAGS=-g0 LDFLAGS=-Wl,--strip-all
# Linked again so that it finds its library from where it lies: /usr/local runs wherever it is copied to.
rm python
# shellcheck disable=SC2016 # make expands it
make EXTRA_CFLAGS=-g0 LDFLAGS='-Wl,--strip-all,-rpath='"'"'$$ORIGIN/../lib'"'" python
make install COMPILEALL_OPTS=--help >/dev/null # else it compiles each module three times
find /usr/local -depth \( -type d \( -name test -o -name tests -o -name idle_test \) \
  -o -type f \( -name '*.pyc' -o -name 'libpython*.a' \) \) -exec rm -rf {} +
for name in idle3 pip3 pydoc3 python3 python3-config; do ln -s "$name" "/usr/local/bin/${name/3/}"; done
