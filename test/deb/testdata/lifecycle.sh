# lifecycle.sh FILE: the life of forkd's package on a host, as its administrator sees it.
# It ends at the first command that does not do what it should.
set -euxo pipefail
deb=$1
answers() { curl -sf --max-time 60 localhost:8090/ >/dev/null; }
pid() { systemctl show --value -p MainPID forkd@shop; }

# Installed: it runs, systemd knows the units, the pages and completions are there.
dpkg -i "$deb"
forkd version
forkd doctor --json | grep -q '"check": "kernel"'
systemctl cat forkd@.service | grep -q '^ExecStart=/usr/bin/forkd run '
dpkg -L forkd | grep -q '^/usr/share/man/man1/forkd-run.1.gz$'
# A container's dpkg may leave documents out (dpkg.cfg(5), path-exclude).
dpkg-deb --fsys-tarfile "$deb" | tar -xO ./usr/share/man/man1/forkd-run.1.gz | gzip -d |
  LC_ALL=C.UTF-8 MANWIDTH=80 man --warnings -l - 2>/tmp/man >/tmp/page
cat /tmp/man && test ! -s /tmp/man
grep -q 'forkd-run' /tmp/page
bash -n /usr/share/bash-completion/completions/forkd

# Used: the natural command of a program that knows nothing of forkd.
mkdir /var/tmp/shop
cat >/etc/forkd/shop.toml <<'TOML'
command = ["python3", "-m", "http.server", "8090"]
directory = "/var/tmp/shop"
user = "nobody"
workers = 2
[[listen]]
address = ":8090"
TOML
systemctl enable --now forkd@shop
forkd status -q shop
answers
forkd reload shop
first=$(pid)

# In the background, without systemd: kept in a file of its own, and started by that.
cd /var/tmp/shop
forkd start --write other --workers 2 -- python3 -m http.server 8091
grep -q '^command = \["python3", "-m", "http.server", "8091"\]$' /etc/forkd/other.toml
forkd status -q other
forkd start --write other -- python3 -m http.server 8092 && exit 1
forkd stop other
forkd start --all
forkd status -q other
curl -sf --max-time 60 localhost:8091/ >/dev/null
forkd start --all | grep -q '^nothing to start'
forkd stop other
rm /etc/forkd/other.toml
cd /

# Upgraded: what runs goes on.
dpkg -i "$deb"
test "$(pid)" = "$first"
answers

# Removed: the app is stopped, its file stays.
dpkg -r forkd
test ! -e /usr/bin/forkd
systemctl is-active forkd@shop && exit 1
test ! -e /proc/"$first"
test -e /etc/forkd/shop.toml

# Purged: only what the administrator wrote stays.
dpkg -P forkd
test -e /etc/forkd/shop.toml
left=$(find /usr /lib/systemd /etc/systemd /var/lib/forkd -name "*forkd*" -not -path "$PWD/*" 2>/dev/null || :)
test -z "$left"
