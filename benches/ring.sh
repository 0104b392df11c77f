#!/usr/bin/env bash
# Rings a second for a known caller, against a bare warp handler in the same run.
# Needs wrk, curl and openssl (Debian: apt-get install wrk curl openssl).
# usage: benches/ring.sh [ROUNDS] [SECONDS] [CONNECTIONS]
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5} seconds=${2:-4} connections=${3:-32}
service=127.0.0.1:18000 bare=127.0.0.1:18001 ops=127.0.0.1:18002
agent=agent_bench caller=+16125550101

cargo build --release --quiet --bin elaoms --example bare_warp
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$folder"' EXIT

env BIND_ADDR=$service OPS_ADDR=$ops DATABASE_URL=sqlite://"$folder"/bench.db PAYLOAD_STORAGE_PATH="$folder"/payloads \
    ELEVENLABS_CLIENT_DATA_KEY=bench ELEVENLABS_SEARCH_DATA_KEY=bench ELEVENLABS_POST_CALL_KEY=bench \
    OPENAI_API_KEY= ELEVENLABS_API_KEY= RUST_LOG="${RUST_LOG:-info}" \
    target/release/elaoms serve >"$folder/log" 2>&1 &
until curl -sf http://$service/health >/dev/null; do sleep 0.1; done

now=$(date +%s)
call='{"type":"post_call_transcription","event_timestamp":'$now',"data":{"agent_id":"'$agent'","conversation_id":"conv_bench","transcript":[{"role":"user","message":"Hi, my name is Nora."}],"metadata":{"start_time_unix_secs":'$now',"phone_call":{"direction":"inbound","external_number":"'$caller'"}}}}'
signature=$(printf '%s.%s' "$now" "$call" | openssl dgst -sha256 -hmac bench -r | cut -d' ' -f1)
curl -sf -o /dev/null -H "ElevenLabs-Signature: t=$now,v0=$signature" -d "$call" http://$service/webhook/post-call

ring='{"caller_id":"'$caller'","agent_id":"'$agent'","called_number":"+16125550000","call_sid":"CA1"}'
answer() { curl -sf -H 'X-Api-Key: bench' -d "$ring" http://$service/webhook/client-data; }
until answer | grep -q Nora; do sleep 0.1; done
target/release/examples/bare_warp $bare "$(answer | wc -c)" &

cat >"$folder/ring.lua" <<LUA
wrk.method = "POST"
wrk.body = '$ring'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["X-Api-Key"] = "bench"
LUA
rate() { wrk -t2 -c"$connections" -d"${seconds}s" --latency -s "$folder/ring.lua" "http://$1/webhook/client-data" |
    awk '/Requests\/sec/{r=$2} /99%/{p=$2} /Non-2xx/{print "errors: " $0 > "/dev/stderr"} END{print r, p}'; }
rate $service >/dev/null; rate $bare >/dev/null
echo "round  service/s  p99      bare/s     p99      ratio"
for i in $(seq "$rounds"); do
    read -r a ap < <(rate $service); read -r b bp < <(rate $bare)
    awk -v i="$i" -v a="$a" -v ap="$ap" -v b="$b" -v bp="$bp" 'BEGIN{printf "%5d  %9.0f  %-7s  %9.0f  %-7s  %.3f\n", i, a, ap, b, bp, a/b}'
done | tee "$folder/rounds"
awk '{print $6}' "$folder/rounds" | sort -n | awk '{v[NR]=$1} END{print "median ratio: " v[int((NR+1)/2)]}'
