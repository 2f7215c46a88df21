function envoy_on_request(handle)
  local headers = handle:headers()
  headers:replace("x-asked-by", headers:get("user-agent") or "nobody")
end

function envoy_on_response(handle)
  handle:headers():replace("x-stamped", "yes")
end
