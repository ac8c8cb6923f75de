-- Arguments: floor, ceiling, zeros behind the microseconds, generation.
local floor, ceiling, zeros, wanted = unpack(ARGV)
local last, generation, lease_owner, lease_until, lease_lifetime =
  unpack(redis.call('HMGET', row, 'nonce', 'generation', 'lease_owner', 'lease_until', 'lease_lifetime'))
last = digits(last)
if is_stale(wanted, generation, lease_owner, lease_until, lease_lifetime) then
  return {'stale', '0', last}
end
local nonce = next_nonce(last, floor, ceiling, zeros)
if not nonce then
  return {'ahead', '0', last}
end
return {'drawn', nonce, last}
