-- Arguments: owner, lifetime.
local wanting, wanted_lifetime = unpack(ARGV)
local owner, ends, lifetime, generation, clean, settled, turn_owner = unpack(
  call('HMGET', row, 'lease_owner', 'lease_until', 'lease_lifetime', 'generation', 'clean', 'settled', 'turn_owner')
)
generation = digits(generation)
local left = remaining('lease', owner, ends, lifetime)

if owner == wanting and left > 0 then
  begin('lease', wanting, wanted_lifetime)
  left = duration(wanted_lifetime)
elseif left == 0 then
  if #generation > 18 or less(generation, now_text) then
    generation = now_text
    call('HSET', row, 'generation', generation)
  else
    call('HINCRBY', row, 'generation', 1)
    generation = call('HGET', row, 'generation')
  end
  begin('lease', wanting, wanted_lifetime)
  -- Whoever's lease ran out is gone.
  if owner and turn_owner == owner then
    finish('turn')
  end
  clean = settled
  call('HSET', row, 'clean', clean or '0', 'settled', '0')
  owner, left = wanting, duration(wanted_lifetime)
end
return {owner, generation, string.format('%.0f', left), clean or '0'}
