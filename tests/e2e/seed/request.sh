curl -X POST \
	-H "Content-type: application/json" \
	-H "Authorization: Bearer $TOKEN" \
"https://$HOSTNAME/api/v2/models/ri.models.main.model.f351c142-0e4c-4b12-adc2-6e1539737ae9/promoteVersion?preview=true" \
-d '{"sourceModelVersionRid":"ri.models.main.model-version.adf94926-c3ac-41ea-beb2-4946699d08ee"}'
