package openapi

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
)

const v2Ref = "#/definitions/"

// makeV2 writes one document about everything. Parameters are written once and referred to: their descriptions would
// be most of the document.
func makeV2(groups []*group, version string, from *source) ([]byte, error) {
	shared := sharedParameters{}
	items := object{}
	models := map[string]bool{}
	custom := map[string]json.RawMessage{}
	for _, g := range groups {
		paths := g.paths()
		maps.Copy(models, modelsOf(paths))
		if err := customModels(g.kinds, true, custom); err != nil {
			return nil, err
		}
		for i := range paths {
			items[paths[i].url] = v2Path(&paths[i], shared)
		}
	}
	definitions, err := from.all(models, custom, func(d *definition) json.RawMessage { return d.V2 })
	if err != nil {
		return nil, err
	}
	return json.Marshal(object{
		"swagger":             "2.0",
		"info":                object{"title": "Kubernetes", "version": version},
		"paths":               items,
		"definitions":         definitions,
		"parameters":          shared,
		"security":            []any{object{"BearerToken": []any{}}},
		"securityDefinitions": object{"BearerToken": bearerToken},
	})
}

// sharedParameters are the parameters of the whole document, by key.
type sharedParameters map[string]object

func (s sharedParameters) refer(ps []parameter) []any {
	out := make([]any, len(ps))
	for i, p := range ps {
		o := object{"name": p.name, "in": p.in, "description": p.description, "type": p.typ, "uniqueItems": true}
		if p.in == "path" {
			o["required"] = true
		}
		if p.name == "name" { // differs by kind
			out[i] = o
			continue
		}
		sum := sha256.Sum256([]byte(p.in + p.typ + p.description))
		key := p.name + "-" + base64.RawURLEncoding.EncodeToString(sum[:6])
		s[key] = o
		out[i] = object{"$ref": "#/parameters/" + key}
	}
	return out
}

func v2Path(p *path, shared sharedParameters) object {
	item := object{}
	if len(p.parameters) > 0 {
		item["parameters"] = shared.refer(p.parameters)
	}
	for i := range p.operations {
		item[p.operations[i].method] = v2Operation(&p.operations[i], shared)
	}
	return item
}

func v2Operation(o *operation, shared sharedParameters) object {
	out := object{
		"description": o.description, "operationId": o.id, "tags": []string{o.tag}, "schemes": []string{"https"},
		"consumes": o.consumes, "produces": o.produces, "responses": v2Responses(o),
	}
	parameters := shared.refer(o.parameters)
	if o.body != nil {
		b := object{"name": "body", "in": "body", "schema": v2Schema(o.body.model)}
		if !o.body.optional {
			b["required"] = true
		}
		parameters = append([]any{b}, parameters...)
	}
	if len(parameters) > 0 {
		out["parameters"] = parameters
	}
	addKubernetes(out, o)
	return out
}

func v2Responses(o *operation) object {
	out := object{}
	for _, r := range o.responses {
		answer := object{"description": r.description}
		if !r.none {
			answer["schema"] = v2Schema(r.model)
		}
		out[r.code] = answer
	}
	return out
}

func v2Schema(model string) object {
	if model == "" {
		return object{"type": "string"}
	}
	return object{"$ref": v2Ref + model}
}

func v2Proto(text []byte) ([]byte, error) {
	document, err := openapi_v2.ParseDocument(text)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(document)
}
