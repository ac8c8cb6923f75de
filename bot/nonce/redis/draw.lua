-- Argument: floor, ceiling, zeros behind the microseconds, generation; one text each way, as that is quickest.
local floor, ceiling, zeros, wanted = ARGV[1]:match('(%d+) (%d+) (0*) (%d+)')
local last, is_stale = last_nonce(wanted)
if is_stale then
  return 'stale 0 ' .. last
end
local nonce = next_nonce(last, floor, ceiling, zeros)
if not nonce then
  return 'ahead 0 ' .. last
end
return 'drawn ' .. nonce .. ' ' .. last
