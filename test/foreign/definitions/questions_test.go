package definitions

import "wherry.dev/wherry/test/foreign/ask"

// questions are asked in this order: each may depend on what the ones before have made.
func questions() (out []ask.Question) {
	add := func(method, path, typ, body string) {
		out = append(out, ask.Question{Method: method, Path: path, Type: typ, Body: body})
	}
	get := func(path, accept string) {
		out = append(out, ask.Question{Method: "GET", Path: path, Accept: accept})
	}
	const v1, v2 = "/apis/shop.example/v1", "/apis/shop.example/v2"
	const boxes = v1 + "/namespaces/shop/boxes"
	post := func(name, spec string) {
		add("POST", boxes, ask.YAML, "apiVersion: shop.example/v1\nkind: Box\nmetadata: {name: "+name+"}\nspec: "+spec+"\n")
	}

	// Definitions that are no good.
	for _, change := range []string{
		`names: {plural: boxes, kind: Box}, versions: []`,
		`names: {plural: boxes, kind: Box}, versions: [{name: v1, served: true, storage: false, schema: {openAPIV3Schema: {type: object}}}]`,
		`names: {plural: boxes, kind: Box}, versions: [{name: v1, served: true, storage: true}]`,
		`names: {plural: boxes, kind: Box}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {properties: {a: {type: string}}}}}]`,
		`names: {plural: other, kind: Box}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]`,
		`names: {plural: boxes, kind: Box}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {a: {type: string, default: 1}}}}}]`,
		`names: {plural: boxes, kind: Box}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {a: {type: string, x-kubernetes-validations: [{rule: "self +"}]}}}}}]`,
		`names: {plural: boxes, kind: Box}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {a: {type: array, items: {type: string}, x-kubernetes-validations: [{rule: "self.all(x, self.all(y, x == y))"}]}}}}}]`,
		`names: {plural: boxes, kind: Box}, conversion: {strategy: Webhook}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]`,
		`names: {plural: boxes, kind: Box}, versions: [{name: v1, served: true, storage: true, subresources: {scale: {specReplicasPath: .amount, statusReplicasPath: .status.amount}}, schema: {openAPIV3Schema: {type: object}}}]`,
		`names: {plural: boxes, kind: Box}, versions: [{name: v1, served: true, storage: true, unknown: 1, schema: {openAPIV3Schema: {type: object}}}]`,
	} {
		add("POST", crds+"?fieldValidation=Strict", ask.YAML, "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: boxes.shop.example}, spec: {group: shop.example, scope: Namespaced, "+change+"}}")
	}

	add("POST", crds, ask.YAML, definition)
	get(crds+"/boxes.shop.example", "")
	get(crds+"/boxes.shop.example", ask.Table)
	get("/apis/shop.example", "")
	get(v1, "")
	get(v2, "")

	// Objects on their way in.
	post("a", "{amount: 1, color: red}")
	post("a", "{amount: 1, color: red}")
	post("A_b", "{amount: 1}")
	for i, spec := range []string{"{}", "{amount: null, color: null}", "{amount: x}", "{amount: 11}", "{color: blue}", "{unknown: 1, free: {x: 1}}", "{port: a}", "{port: 1.5}", "{when: today}", "{parts: [{name: a}, {name: a}]}", "{parts: [{}]}",
		"{tags: [a, a]}", "{low: 2, high: 1}", "{inner: {apiVersion: v1, kind: X, metadata: {name: a, odd: 1}}}", "{inner: {}}", "{nothing: null}", "{labels: {a: 1}}", "{long: 'aaaaaaaaaaaaaaaaaaaaaaaa'}", "[]", "x"} {
		post("i"+string(rune('a'+i)), spec)
	}
	for _, v := range []string{"Strict", "Warn", "Ignore"} {
		add("POST", boxes+"?dryRun=All&fieldValidation="+v, ask.JSON, `{"apiVersion":"shop.example/v1","kind":"Box","metadata":{"name":"v","odd":1},"spec":{"amount":1,"amount":2,"unknown":1,"inner":{"apiVersion":"v1","kind":"X","metadata":{"odd":1}}}}`)
	}
	for _, body := range []string{``, `{`, `[]`, `null`, `{"kind":"Box"}`, `{"apiVersion":"shop.example/v1","kind":"Other","metadata":{"name":"x"}}`, `{"apiVersion":"shop.example/v2","kind":"Box","metadata":{"name":"x"}}`,
		`{"apiVersion":"shop.example/v1","kind":"Box","metadata":{"name":1}}`, `{"apiVersion":"shop.example/v1","kind":"Box","metadata":"x"}`, `{"apiVersion":"shop.example/v1","kind":"Box"}`,
		`{"apiVersion":"shop.example/v1","kind":"Box","metadata":{"name":"x","namespace":"other"}}`,
		`{"apiVersion":"shop.example/v1","kind":"Box","metadata":{"name":"fin","finalizers":["odd","a.b","c.d/e","In Valid"]}}`} {
		add("POST", boxes, ask.JSON, body)
	}
	add("POST", boxes, "text/plain", "x")
	add("POST", v1+"/boxes", ask.JSON, `{"apiVersion":"shop.example/v1","kind":"Box","metadata":{"name":"x"}}`)

	// Reading.
	get(boxes+"/a", "")
	get(boxes+"/a", ask.YAML)
	get(boxes+"/a", ask.Table)
	get(boxes+"/nope", "")
	get(boxes, ask.Table)
	get(boxes, ask.Protobuf)
	get(boxes, "text/plain")
	get(boxes+"/a", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
	get(boxes+"?fieldSelector=spec.color%3Dred", "")
	get(boxes+"?fieldSelector=spec.amount%3D1", "")
	get(boxes+"?labelSelector=%3D%3D", "")
	get(v2+"/namespaces/shop/boxes/a", "")
	get("/apis/shop.example/v3/namespaces/shop/boxes/a", "")
	get(boxes+"/a/status", "")
	get(boxes+"/a/other", "")
	get(boxes+"/a/scale", "")

	// Patches.
	patch := func(path, typ, body string) { add("PATCH", path, typ, body) }
	inOtherWords := func() { out[len(out)-1].OtherWords = true }
	patch(boxes+"/a", ask.Strategic, `{"spec":{"amount":2}}`)
	patch(boxes+"/a", ask.Merge, `{"spec":{"amount":2}}`)
	patch(boxes+"/a", ask.Merge, `{"spec":{"amount":1}}`) // a transition rule
	patch(boxes+"/a", ask.Merge, `{"spec":{"amount":3},"status":{"amount":3}}`)
	patch(boxes+"/a", ask.Merge, `{"spec":{"unknown":3}}`)
	patch(boxes+"/a?fieldValidation=Strict", ask.Merge, `{"spec":{"unknown":3}}`)
	inOtherWords() // the message holds the whole object
	patch(boxes+"/a", ask.Merge, `{"metadata":{"name":"b"}}`)
	patch(boxes+"/a", ask.Merge, `{"metadata":{"resourceVersion":"1"}}`)
	patch(boxes+"/a", ask.Merge, `{"apiVersion":"shop.example/v2"}`)
	patch(boxes+"/a", ask.Merge, `x`)
	inOtherWords()
	patch(boxes+"/nope", ask.Merge, `{}`)
	patch(boxes+"/a", ask.JSONPatch, `[{"op":"replace","path":"/spec/amount","value":4}]`)
	patch(boxes+"/a", ask.JSONPatch, `[{"op":"replace","path":"/spec/amount","value":"x"}]`)
	patch(boxes+"/a", ask.JSONPatch, `[{"op":"remove","path":"/nope"}]`)
	inOtherWords() // upstream does not say what is wrong
	patch(boxes+"/a", ask.JSONPatch, `{}`)
	inOtherWords() // upstream names its own Go type
	patch(boxes+"/a", "text/plain", `{}`)

	// Apply.
	with := func(manager, spec string) string {
		return `{"apiVersion":"shop.example/v1","kind":"Box","metadata":{"name":"app"},"spec":` + spec + `}`
	}
	patch(boxes+"/app?fieldManager=one", ask.Apply, with("one", `{"amount":1,"parts":[{"name":"a"}],"atoms":["a"]}`))
	patch(boxes+"/app?fieldManager=two", ask.Apply, with("two", `{"parts":[{"name":"b","num":2}]}`))
	patch(boxes+"/app?fieldManager=two", ask.Apply, with("two", `{"amount":2,"atoms":["b"]}`))
	patch(boxes+"/app?fieldManager=two&force=true", ask.Apply, with("two", `{"amount":2,"atoms":["b"]}`))
	patch(boxes+"/app?fieldManager=one", ask.Apply, with("one", `{"unknown":1}`))
	patch(boxes+"/app?fieldManager=one", ask.Apply, with("one", `{"parts":[{"name":"a"},{"name":"a"}]}`))
	patch(boxes+"/app?fieldManager=one", ask.Apply, with("one", `{"amount":"x"}`))
	patch(boxes+"/app", ask.Apply, with("one", `{}`))
	patch(boxes+"/app?fieldManager=one", ask.Apply, `{"apiVersion":"shop.example/v2","kind":"Box","spec":{"color":"red"}}`)
	patch(boxes+"/app?fieldManager=one", ask.Apply, `{"kind":"Box"}`)
	inOtherWords()
	patch(boxes+"/app/status?fieldManager=s", ask.Apply, `{"apiVersion":"shop.example/v1","kind":"Box","metadata":{"name":"app"},"status":{"amount":2}}`)
	patch(boxes+"/app/status?fieldManager=t", ask.Apply, `{"apiVersion":"shop.example/v1","kind":"Box","metadata":{"name":"app"},"status":{"amount":3}}`)
	get(boxes+"/app", "")
	// From now on upstream cannot apply a status in v1: the schema of v2 has none, which here is passed over.
	patch(v2+"/namespaces/shop/boxes/app?fieldManager=three", ask.Apply, `{"apiVersion":"shop.example/v2","kind":"Box","metadata":{"name":"app"},"spec":{"color":"red"}}`)
	get(boxes+"/app", "")

	// Status and scale.
	patch(boxes+"/a/status", ask.Merge, `{"status":{"amount":-1}}`)
	patch(boxes+"/a/status", ask.Merge, `{"spec":{"amount":9},"status":{"amount":5},"metadata":{"labels":{"a":"b"}}}`)
	get(boxes+"/a/scale", "")
	get(boxes+"/a/scale", ask.Table)
	patch(boxes+"/a/scale", ask.Merge, `{"spec":{"replicas":7}}`)
	patch(boxes+"/a/scale", ask.Merge, `{"spec":{"replicas":-1}}`)
	patch(boxes+"/a/scale", ask.Strategic, `{"spec":{"replicas":8}}`)
	patch(boxes+"/ia/scale", ask.Merge, `{"metadata":{}}`)
	patch(boxes+"/a/scale?fieldManager=sc", ask.Apply, `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"a"},"spec":{"replicas":8}}`)
	add("PUT", boxes+"/a/scale", ask.JSON, `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"a","namespace":"shop"},"spec":{"replicas":9}}`)
	get(boxes+"/a", "")
	add("PUT", boxes+"/a", ask.JSON, `{"apiVersion":"shop.example/v1","kind":"Box","metadata":{"name":"a"},"spec":{"amount":9}}`)
	add("PUT", boxes+"/nope", ask.JSON, `{"apiVersion":"shop.example/v1","kind":"Box","metadata":{"name":"nope","resourceVersion":"1"},"spec":{"amount":9}}`)

	// Names that are taken, and the end.
	add("POST", crds, ask.YAML, "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: crates.shop.example}, spec: {group: shop.example, scope: Cluster, names: {plural: crates, kind: Crate, shortNames: [bx, cr]}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}}")
	get(crds+"/crates.shop.example", "")
	add("DELETE", boxes+"/a", "", "")
	add("DELETE", boxes+"/a", "", "")
	add("DELETE", boxes+"?fieldSelector=metadata.name%3Dia", "", "")
	add("DELETE", crds+"/boxes.shop.example?dryRun=All", "", "")
	return out
}

const definition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boxes.shop.example}
spec:
  group: shop.example
  scope: Namespaced
  names: {plural: boxes, kind: Box, shortNames: [bx], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.amount, statusReplicasPath: .status.amount}}
    selectableFields: [{jsonPath: .spec.color}]
    additionalPrinterColumns:
    - {name: Amount, type: integer, jsonPath: .spec.amount, description: a number}
    - {name: Color, type: string, jsonPath: .spec.color, priority: 1}
    - {name: Tags, type: string, jsonPath: ".spec.tags[*]"}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            x-kubernetes-validations: [{rule: "!has(self.low) || !has(self.high) || self.low <= self.high", message: low is above high}]
            properties:
              amount: {type: integer, maximum: 10, x-kubernetes-validations: [{rule: "self >= oldSelf", message: never less}]}
              color: {type: string, enum: [red, green], default: green}
              low: {type: integer}
              high: {type: integer}
              port: {x-kubernetes-int-or-string: true}
              when: {type: string, format: date-time}
              nothing: {type: string, nullable: true}
              long: {type: string, maxLength: 10}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
              inner: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}
              labels: {type: object, additionalProperties: {type: string}}
              tags: {type: array, x-kubernetes-list-type: set, items: {type: string}}
              atoms: {type: array, items: {type: string}}
              parts: {type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [name], items: {type: object, required: [name], properties: {name: {type: string}, num: {type: integer, default: 1}}}}
          status: {type: object, properties: {amount: {type: integer, minimum: 0}}}
  - name: v2
    served: true
    storage: false
    deprecated: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}
`
