-- Comes before every step. The row of a key is one hash.
-- Nonces and generations stay text: a Lua number is exact up to 2^53 only, and its text rounds before that.
-- Times in microseconds (16 digits) may be numbers, and are written by '%.0f', which does not round them.
local call, row = redis.call, KEYS[1]
local seconds, micros = unpack(call('TIME'))
local now_text = seconds .. ('000000'):sub(#micros + 1) .. micros
local now = tonumber(now_text)

-- What is damaged counts as none; 20 digits are those of the largest nonce that Kraken takes.
local function digits(text)
  return text and #text <= 20 and text:find('^[1-9]%d*$') and text or '0'
end

local function less(one, other)
  if #one ~= #other then
    return #one < #other
  end
  return one < other
end

local function duration(text)
  return text and #text <= 16 and text:match('^%d+$') and tonumber(text) or 0
end

-- The end of what is somebody's until a moment: never further away than its whole lifetime, unless the clock was set back.
local function bounded(ends, lifetime)
  return math.min(duration(ends), now + duration(lifetime))
end

-- How long it still is somebody's. A clock that was set back is noticed here, and written down.
local function remaining(kind, owner, ends, lifetime)
  if not owner then
    return 0
  end
  local bound = bounded(ends, lifetime)
  if bound < duration(ends) then
    call('HSET', row, kind .. '_until', string.format('%.0f', bound))
  end
  return math.max(0, bound - now)
end

local function begin(kind, owner, lifetime)
  local ends = string.format('%.0f', now + duration(lifetime))
  call('HSET', row, kind .. '_owner', owner, kind .. '_until', ends, kind .. '_lifetime', lifetime)
end

local function finish(kind)
  call('HDEL', row, kind .. '_owner', kind .. '_until', kind .. '_lifetime')
end

-- The last nonce, and whether a sender of the wanted generation is stale; with 0 it asks for no lease.
local function last_nonce(wanted)
  if wanted == '0' then
    return digits(call('HGET', row, 'nonce')), false
  end
  local nonce, generation, owner, ends, lifetime =
    unpack(call('HMGET', row, 'nonce', 'generation', 'lease_owner', 'lease_until', 'lease_lifetime'))
  return digits(nonce), wanted ~= digits(generation) or remaining('lease', owner, ends, lifetime) == 0
end

-- Write and return max(now, floor, last + 1), or return nothing where that is above the ceiling.
local function next_nonce(last, floor, ceiling, zeros)
  local lowest = now_text .. zeros
  if less(lowest, floor) then
    lowest = floor
  end
  if less(last, lowest) then
    if less(ceiling, lowest) then
      return nil
    end
    call('HSET', row, 'nonce', lowest)
    return lowest
  end
  if not less(last, ceiling) then
    return nil
  end
  -- The answer to HINCRBY would be a Lua number, so it is read again as text.
  call('HINCRBY', row, 'nonce', 1)
  return call('HGET', row, 'nonce')
end
