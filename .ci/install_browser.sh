#!/usr/bin/env bash
# Give the report's tests a browser: the one that is here, else Chromium from apt-get where this runs as root.
# Where there is none to be had it says so and ends well, and those tests are skipped.
set -euo pipefail

# What the tests look for, in their order. Some distributions have a program of such a name that only says how to
# install a browser.
for browser in chromium chromium-browser google-chrome; do
    if "$browser" --version >/dev/null 2>&1; then
        echo "The report is tested in $(command -v "$browser")"
        exit
    fi
done

without_a_browser() {
    echo "skipped: the report's tests in a browser: there is no Chromium here and $1" >&2
    exit 0
}

command -v apt-get >/dev/null || without_a_browser "no apt-get to install it"
[ "$(id -u)" = 0 ] || without_a_browser "only root can install it (apt-get install chromium)"
export DEBIAN_FRONTEND=noninteractive
options=(-qq -o Acquire::Retries=1 -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30)
echo "Installing Chromium (1 minute, 400 MB)"
{ apt-get "${options[@]}" update && apt-get "${options[@]}" install --yes --no-install-recommends chromium; } >/dev/null ||
    without_a_browser "apt-get could not install it"
if ! chromium --version >/dev/null 2>&1; then
    apt-get "${options[@]}" remove --yes chromium >/dev/null
    without_a_browser "the one of apt-get does not start"
fi
echo "The report is tested in $(command -v chromium)"
