-- wrk's requests: rings or ended calls, as the environment says.

local kind, key, agent = os.getenv("LOAD_KIND"), os.getenv("LOAD_KEY"), os.getenv("LOAD_AGENT")
local threads, from = tonumber(os.getenv("LOAD_THREADS")), tonumber(os.getenv("LOAD_FROM"))
local callers, each_once = tonumber(os.getenv("LOAD_CALLERS")), os.getenv("LOAD_EACH_ONCE") ~= ""

local started = 0
function setup(thread)
   thread:set("place", from + started)
   thread:set("seed", started + 1)
   started = started + 1
end

function init()
   math.randomseed(seed)
end

-- The same as in seed.rs.
local function number(caller)
   return string.format("+1612%03d%04d", 200 + math.floor(caller / 10000), caller % 10000)
end

local function caller()
   if not each_once then return number(math.random(0, callers - 1)) end
   place = place + threads
   return number((place - threads) * 7919 % callers)
end

local function ring()
   local body = string.format(
      '{"caller_id":"%s","agent_id":"%s","called_number":"+16125550000","call_sid":"CA00000000000000000000000000000001"}',
      caller(), agent)
   return wrk.format("POST", "/webhook/client-data",
      { ["Content-Type"] = "application/json", ["X-Api-Key"] = key }, body)
end

local ffi, digest, length
if kind == "call" then
   -- wrk brings OpenSSL for HTTPS.
   ffi = require("ffi")
   ffi.cdef [[
      const void *EVP_sha256(void);
      unsigned char *HMAC(const void *md, const void *key, int key_len,
         const unsigned char *data, size_t n, unsigned char *out, unsigned int *out_len);
   ]]
   digest, length = ffi.new("unsigned char[64]"), ffi.new("unsigned int[1]")
end

local function hmac(text)
   ffi.C.HMAC(ffi.C.EVP_sha256(), key, #key, text, #text, digest, length)
   local hex = {}
   for i = 0, 31 do hex[i + 1] = string.format("%02x", digest[i]) end
   return table.concat(hex)
end

local turns = {}
for i = 1, 12 do
   turns[2 * i - 1] = '{"role":"agent","message":"Good morning, this is the garden helpline. How are the raised beds getting on, and what may I help you with today?","time_in_call_secs":' .. i * 9 .. '}'
   turns[2 * i] = '{"role":"user","message":"The slugs are back in the tomatoes, number ' .. i .. ' of this week, and I should like to know what to do about them.","time_in_call_secs":' .. i * 9 + 4 .. '}'
end
local transcript = table.concat(turns, ",")

local run, calls = os.time() .. "_" .. from, 0
local function call()
   calls = calls + 1
   local now = os.time()
   local body = string.format(
      '{"type":"post_call_transcription","event_timestamp":%d,"data":{"agent_id":"%s","conversation_id":"conv_%s_%d_%d","transcript":[%s],"metadata":{"start_time_unix_secs":%d,"phone_call":{"direction":"inbound","external_number":"%s"}},"analysis":{"data_collection_results":{"topic":{"value":"slugs"}}}}}',
      now, agent, run, seed, calls, transcript, now, caller())
   return wrk.format("POST", "/webhook/post-call", {
      ["Content-Type"] = "application/json",
      ["ElevenLabs-Signature"] = "t=" .. now .. ",v0=" .. hmac(now .. "." .. body),
   }, body)
end

request = kind == "call" and call or ring

function done(summary, latency)
   local percentiles = {}
   for i, p in ipairs({ 10, 25, 50, 75, 90, 95, 99, 99.9, 99.99 }) do
      percentiles[i] = tostring(latency:percentile(p))
   end
   local e = summary.errors
   print(string.format('measured {"requests":%d,"seconds":%f,"errors":%d,"percentiles":[%s]}',
      summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
      table.concat(percentiles, ",")))
end
