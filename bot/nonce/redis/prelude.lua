-- Comes before every step. The row of a key is one hash.
-- Nonces and generations stay text: a Lua number is exact up to 2^53 only, and its text rounds before that.
-- Times in microseconds (16 digits) may be numbers, and are written by '%.0f', which does not round them.
local row = KEYS[1]
local time = redis.call('TIME')
local now_text = string.format('%s%06d', time[1], time[2])
local now = tonumber(now_text)

-- What is damaged counts as none.
local function digits(text)
  return text and text:match('^[1-9]%d*$') or '0'
end

local function less(one, other)
  if #one ~= #other then
    return #one < #other
  end
  return one < other
end

local function micros(text)
  return text and #text <= 16 and text:match('^%d+$') and tonumber(text) or 0
end

-- The end of what is somebody's until a moment: never further away than its whole lifetime, unless the clock was set back.
local function bounded(ends, lifetime)
  return math.min(micros(ends), now + micros(lifetime))
end

-- How long it still is somebody's. A clock that was set back is noticed here, and written down.
local function remaining(kind, owner, ends, lifetime)
  if not owner then
    return 0
  end
  local bound = bounded(ends, lifetime)
  if bound < micros(ends) then
    redis.call('HSET', row, kind .. '_until', string.format('%.0f', bound))
  end
  return math.max(0, bound - now)
end

local function begin(kind, owner, lifetime)
  local ends = string.format('%.0f', now + micros(lifetime))
  redis.call('HSET', row, kind .. '_owner', owner, kind .. '_until', ends, kind .. '_lifetime', lifetime)
end

local function finish(kind)
  redis.call('HDEL', row, kind .. '_owner', kind .. '_until', kind .. '_lifetime')
end

-- A generation of 0 asks for no lease.
local function is_stale(wanted, generation, owner, ends, lifetime)
  if wanted == '0' then
    return false
  end
  return wanted ~= digits(generation) or remaining('lease', owner, ends, lifetime) == 0
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
    redis.call('HSET', row, 'nonce', lowest)
    return lowest
  end
  if not less(last, ceiling) then
    return nil
  end
  -- The answer to HINCRBY would be a Lua number, so it is read again as text.
  redis.call('HINCRBY', row, 'nonce', 1)
  return redis.call('HGET', row, 'nonce')
end
