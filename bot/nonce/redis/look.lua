-- Writes nothing, not even that the clock was set back.
local nonce, generation, clean, owner, ends, lifetime, turn_owner, turn_until, turn_lifetime = unpack(
  call(
    'HMGET', row, 'nonce', 'generation', 'clean',
    'lease_owner', 'lease_until', 'lease_lifetime', 'turn_owner', 'turn_until', 'turn_lifetime'
  )
)
nonce, generation = digits(nonce), digits(generation)
if nonce == '0' and generation == '0' then
  return false
end
local left = owner and math.max(0, bounded(ends, lifetime) - now) or 0
if turn_owner and bounded(turn_until, turn_lifetime) <= now then
  turn_owner = false
end
return {nonce, turn_owner or '', owner or '', generation, string.format('%.0f', left), clean or '0'}
