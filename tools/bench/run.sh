#!/usr/bin/env bash
# run.sh: the whole-system benchmark: a fresh cluster of this build with two
# copies, a plain local directory beside it, and the goals. Needs root (it drops
# the page cache), fio, jq, wrk, curl; nginx for its own column of the HTTP table.
#
#   BENCH=DIR     the benchmark scripts (default ../shared/bench beside the checkout)
#   WORK=DIR      where to work, on the disk to be measured (default: a new directory in TMPDIR)
#   SECTIONS=     of bench.sh: io,rand,md,small,tree     HTTPBENCH=0: without HTTP
#   REPS=3        repetitions of the sequential figures; rows show the median
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
BENCH=${BENCH:-$here/../shared/bench}
SECTIONS=${SECTIONS:-io,rand,md,small,tree}
REPS=${REPS:-3}
[ -r "$BENCH/bench.sh" ] || { echo "bench: no benchmark scripts in $BENCH: name their directory with BENCH=" >&2; exit 2; }
for p in fio jq wrk curl; do command -v $p >/dev/null || { echo "bench: $p is missing: apt-get install $p" >&2; exit 2; }; done
[ "$(id -u)" = 0 ] || { echo "bench: needs root, to drop the page cache" >&2; exit 2; }

WORK=${WORK:-$(mktemp -d)}
mkdir -p "$WORK"
tnv=$here/bin/tnv dir=$WORK/cluster mnt=$WORK/mnt local=$WORK/local out=$WORK/rows.tsv
nginx_pid=
cleanup() {
  [ -z "$nginx_pid" ] || kill "$nginx_pid" 2>/dev/null || true
  "$tnv" down --dir "$dir" >/dev/null 2>&1 || umount -l "$mnt" 2>/dev/null || true
  rm -rf "$WORK"
}
trap cleanup EXIT
mkdir -p "$mnt" "$local"
: > "$out"
(cd "$BENCH/mdbench" && go build -o "$WORK/mdbench" .)

# What the tree rows copy: Go's own source as a tar, and a mixed directory of about 296 MB.
src=$(go env GOROOT)/src
tar -C "$(dirname "$src")" -cf "$WORK/src.tar" src
mkdir -p "$WORK/mixed"
cp -r "$src/net" "$src/os" "$src/crypto" "$WORK/mixed/"
have=$(du -sm "$WORK/mixed" | cut -f1)
for i in 1 2 3 4; do head -c "$(( (296 - have) * 1000000 / 4 ))" /dev/urandom > "$WORK/mixed/film$i"; done

up() { "$tnv" up -d --dir "$dir" --mount "$mnt" --http 127.0.0.1:0 >/dev/null; }
up
pids() { for f in "$dir"/run/*.pid; do printf '%s:%s ' "$(basename "${f%.pid}")" "$(head -n1 "$f")"; done; }
export -f pids; export dir
run() { # label directory remount pids
  TMPDIR=$WORK bash "$BENCH/bench.sh" -d "$2" -l "$1" -o "$out" -r "$3" -p "$4" -s "$SECTIONS" -n "$REPS" \
    -t "$WORK/src.tar" -m "$WORK/mixed" -b "$WORK/mdbench" >&2
}
run local "$local" : :
run tnv "$mnt" "umount $mnt && while kill -0 \$(head -n1 $dir/run/mount-1.pid) 2>/dev/null; do sleep 0.05; done; $tnv up -d --dir $dir --mount $mnt --http 127.0.0.1:0 >/dev/null" pids

if [ "${HTTPBENCH:-1}" = 1 ]; then
  head -c 500000000 /dev/urandom > "$local/film.bin"
  cp "$local/film.bin" "$mnt/film.bin"
  sum=$(md5sum "$local/film.bin" | cut -d' ' -f1)
  url=$("$tnv" status --dir "$dir" --json | jq -r '.processes[]? | select(.name=="httpd-1") | .addr // .at')
  TMPDIR=$WORK bash "$BENCH/httpbench.sh" -u "http://$url/film.bin" -l tnv -o "$out" -z 500000000 -p pids -x "$sum" >&2
  if command -v nginx >/dev/null; then
    cat > "$WORK/nginx.conf" <<X
daemon off; pid $WORK/nginx.pid; error_log $WORK/nginx.log; worker_processes 2;
events { worker_connections 1024; }
http { access_log off; sendfile on; client_body_temp_path $WORK/t1; proxy_temp_path $WORK/t2; fastcgi_temp_path $WORK/t3;
  uwsgi_temp_path $WORK/t4; scgi_temp_path $WORK/t5; server { listen 127.0.0.1:18999; root $local; } }
X
    chmod 755 "$WORK" "$local"
    nginx -c "$WORK/nginx.conf" & nginx_pid=$!
    for _ in $(seq 50); do curl -s -o /dev/null http://127.0.0.1:18999/ && break; sleep 0.1; done
    TMPDIR=$WORK bash "$BENCH/httpbench.sh" -u http://127.0.0.1:18999/film.bin -l local -o "$out" -z 500000000 -x "$sum" >&2
  fi
fi

echo
echo "Median of each row; local is a plain directory on the same disk, and for HTTP nginx with the local file."
awk -F'\t' -v goals="$here/tools/bench/goals.tsv" '
  BEGIN { while ((getline line < goals) > 0) { split(line, g, "\t"); goal[g[1]] = g[2] } }
  { key = $2; if (!(key in seen)) { seen[key] = 1; order[++n] = key } unit[key] = $4; v[$1, key] = v[$1, key] " " $3 }
  function median(s,   a, m, i, j, t) {
    m = split(s, a, " "); if (m == 0) return "-"
    for (i = 2; i <= m; i++) for (j = i; j > 1 && a[j-1] + 0 > a[j] + 0; j--) { t = a[j]; a[j] = a[j-1]; a[j-1] = t }
    return a[int((m + 1) / 2)]
  }
  END {
    printf "%-28s %12s %12s %10s  %s\n", "row", "local", "TNV", "goal", "unit"
    for (i = 1; i <= n; i++) { k = order[i]
      printf "%-28s %12s %12s %10s  %s\n", k, median(v["local", k]), median(v["tnv", k]), (k in goal ? goal[k] : ""), unit[k] }
  }' "$out"
