# type.sh DIR: installs DIR/forkd and its units, as the package does, and runs each
# document's script in DIR, in a directory of its own, with no app of the others left.
set -eu
dir=$1
install -m 755 "$dir/forkd" /usr/bin/forkd
install -D -m 644 -t /usr/lib/systemd/system ../../systemd/*.service
mkdir -p /etc/forkd
systemctl daemon-reload
for script in "$dir"/*.sh; do
  name=${script##*/}
  mkdir -p "/tmp/typed/$name" && cd "/tmp/typed/$name"
  rm -f /etc/forkd/*.toml
  bash "$script" >"$dir/${name%.sh}.out" </dev/null || :
  forkd kill --all >/dev/null 2>&1 || :
  rm -rf /var/lib/forkd /var/www/* # an app of the next one may have the same name
done
