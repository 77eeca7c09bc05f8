package openapi

import (
	"encoding/json"

	openapi_v3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
)

type object = map[string]any

const v3Ref = "#/components/schemas/"

// makeV3 writes the document of one group and version.
func makeV3(g *group, version string, from *source) ([]byte, error) {
	paths := g.paths()
	custom := map[string]json.RawMessage{}
	if err := customModels(g.kinds, false, custom); err != nil {
		return nil, err
	}
	definitions, err := from.all(modelsOf(paths), custom, func(d *definition) json.RawMessage { return d.V3 })
	if err != nil {
		return nil, err
	}
	return json.Marshal(object{
		"openapi": "3.0.0",
		"info":    object{"title": "Kubernetes", "version": version},
		"paths":   v3Paths(paths),
		"components": object{
			"schemas":         definitions,
			"securitySchemes": object{"BearerToken": bearerToken},
		},
	})
}

var bearerToken = object{
	"type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header",
}

func v3Paths(paths []path) object {
	out := make(object, len(paths))
	for _, p := range paths {
		item := object{}
		if len(p.parameters) > 0 {
			item["parameters"] = v3Parameters(p.parameters)
		}
		for i := range p.operations {
			item[p.operations[i].method] = v3Operation(&p.operations[i])
		}
		out[p.url] = item
	}
	return out
}

func v3Parameters(ps []parameter) []any {
	out := make([]any, len(ps))
	for i, p := range ps {
		o := object{"name": p.name, "in": p.in, "description": p.description, "schema": object{"type": p.typ, "uniqueItems": true}}
		if p.in == "path" {
			o["required"] = true
		}
		out[i] = o
	}
	return out
}

func v3Operation(o *operation) object {
	out := object{"description": o.description, "operationId": o.id, "tags": []string{o.tag}, "responses": v3Responses(o)}
	if len(o.parameters) > 0 {
		out["parameters"] = v3Parameters(o.parameters)
	}
	if o.body != nil {
		b := object{"content": content(o.consumes, v3Schema(o.body.model))}
		if !o.body.optional {
			b["required"] = true
		}
		out["requestBody"] = b
	}
	addKubernetes(out, o)
	return out
}

// addKubernetes adds the extensions by which clients find the operations of a kind.
func addKubernetes(out object, o *operation) {
	if o.kind == nil {
		return
	}
	out["x-kubernetes-action"] = o.action
	out["x-kubernetes-group-version-kind"] = object{"group": o.kind.Group, "version": o.kind.Version, "kind": o.kind.Kind}
}

func v3Responses(o *operation) object {
	out := object{}
	for _, r := range o.responses {
		answer := object{"description": r.description}
		if !r.none {
			answer["content"] = content(o.produces, v3Schema(r.model))
		}
		out[r.code] = answer
	}
	return out
}

func content(types []string, schema object) object {
	out := make(object, len(types))
	for _, t := range types {
		out[t] = object{"schema": schema}
	}
	return out
}

// v3Schema refers to a model; without one it is text.
func v3Schema(model string) object {
	if model == "" {
		return object{"type": "string"}
	}
	return object{"$ref": v3Ref + model}
}

// modelsOf returns the models that paths name.
func modelsOf(paths []path) map[string]bool {
	models := map[string]bool{}
	for _, p := range paths {
		for _, o := range p.operations {
			if o.body != nil {
				models[o.body.model] = true
			}
			for _, r := range o.responses {
				if r.model != "" {
					models[r.model] = true
				}
			}
		}
	}
	return models
}

func v3Proto(text []byte) ([]byte, error) {
	document, err := openapi_v3.ParseDocument(text)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(document)
}
