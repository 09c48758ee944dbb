package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/forkd/forkd/internal/control"
)

// schemaFile describes the JSON of forkd status and describe.
const schemaFile = "../../docs/status.schema.json"

// node is a schema, as far as it is used here (json-schema.org, 2020-12).
type node struct {
	Schema     string           `json:"$schema,omitempty"`
	Title      string           `json:"title,omitempty"`
	Ref        string           `json:"$ref,omitempty"`
	Type       []string         `json:"type,omitempty"`
	Format     string           `json:"format,omitempty"`
	AnyOf      []*node          `json:"anyOf,omitempty"`
	Items      *node            `json:"items,omitempty"`
	Required   []string         `json:"required,omitempty"`
	Properties map[string]*node `json:"properties,omitempty"`
	Defs       map[string]*node `json:"$defs,omitempty"`
}

// schemaOf is the schema of a type's JSON. Structs become definitions.
func schemaOf(t reflect.Type, defs map[string]*node) *node {
	switch t.Kind() {
	case reflect.Pointer:
		of := schemaOf(t.Elem(), defs)
		if of.Ref != "" {
			return &node{AnyOf: []*node{of, {Type: []string{"null"}}}}
		}
		return &node{Type: append(of.Type, "null"), Format: of.Format}
	case reflect.Slice:
		return &node{Type: []string{"array", "null"}, Items: schemaOf(t.Elem(), defs)}
	case reflect.String:
		return &node{Type: []string{"string"}}
	case reflect.Bool:
		return &node{Type: []string{"boolean"}}
	case reflect.Float64:
		return &node{Type: []string{"number"}}
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() {
			return &node{Type: []string{"string"}, Format: "date-time"}
		}
		if defs[t.Name()] == nil {
			of := &node{Type: []string{"object"}, Properties: map[string]*node{}}
			defs[t.Name()] = of
			for field := range t.Fields() {
				name, option, _ := strings.Cut(field.Tag.Get("json"), ",")
				if field.Anonymous { // its fields are this one's
					schemaOf(field.Type, defs)
					within := defs[field.Type.Name()]
					maps.Copy(of.Properties, within.Properties)
					of.Required = append(of.Required, within.Required...)
					continue
				}
				of.Properties[name] = schemaOf(field.Type, defs)
				if option != "omitempty" {
					of.Required = append(of.Required, name)
				}
			}
		}
		return &node{Ref: "#/$defs/" + t.Name()}
	default:
		return &node{Type: []string{"integer"}}
	}
}

// The document is what the types say.
func TestSchemaDocument(t *testing.T) {
	doc := &node{
		Schema: "https://json-schema.org/draft/2020-12/schema",
		Title:  fmt.Sprintf("forkd status --json, schema %d; #/$defs/Description is forkd describe --json", control.StatusSchema),
		Defs:   map[string]*node{},
	}
	list := schemaOf(reflect.TypeFor[[]control.App](), doc.Defs)
	doc.Type, doc.Items = []string{"array"}, list.Items
	schemaOf(reflect.TypeFor[control.Description](), doc.Defs)
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, '\n')
	if *update {
		if err := os.WriteFile(schemaFile, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if written, err := os.ReadFile(schemaFile); err != nil || string(written) != string(text) {
		t.Errorf("docs/status.schema.json is not what the types say (%v): run go test ./cmd/forkd -run TestSchemaDocument -update", err)
	}
}

// wrong says where a value does not keep to a schema, or has a field that it does not name.
func (n *node) wrong(doc *node, at string, value any) string {
	if n.Ref != "" {
		return doc.Defs[strings.TrimPrefix(n.Ref, "#/$defs/")].wrong(doc, at, value)
	}
	if len(n.AnyOf) > 0 {
		if slices.ContainsFunc(n.AnyOf, func(one *node) bool { return one.wrong(doc, at, value) == "" }) {
			return ""
		}
		return n.AnyOf[0].wrong(doc, at, value)
	}
	kind := map[reflect.Kind]string{reflect.String: "string", reflect.Bool: "boolean", reflect.Float64: "number", reflect.Map: "object", reflect.Slice: "array"}[reflect.ValueOf(value).Kind()]
	if number, ok := value.(float64); value == nil {
		kind = "null"
	} else if ok && number == float64(int64(number)) && slices.Contains(n.Type, "integer") {
		kind = "integer"
	}
	if !slices.Contains(n.Type, kind) {
		return fmt.Sprintf("%s is %s, not %s", at, kind, strings.Join(n.Type, " or "))
	}
	if text, ok := value.(string); ok && n.Format == "date-time" {
		if _, err := time.Parse(time.RFC3339Nano, text); err != nil {
			return fmt.Sprintf("%s: %v", at, err)
		}
	}
	if list, ok := value.([]any); ok {
		for i, item := range list {
			if text := n.Items.wrong(doc, fmt.Sprintf("%s[%d]", at, i), item); text != "" {
				return text
			}
		}
	}
	object, _ := value.(map[string]any)
	for name, field := range object {
		if n.Properties[name] == nil {
			return at + "." + name + " is not in the document"
		}
		if text := n.Properties[name].wrong(doc, at+"."+name, field); text != "" {
			return text
		}
	}
	for _, name := range n.Required {
		if _, there := object[name]; kind == "object" && !there {
			return at + "." + name + " is missing"
		}
	}
	return ""
}

// keepsTo fails unless the JSON of a file keeps to docs/status.schema.json, or to one of its
// definitions.
func keepsTo(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: keepsto FILE [DEFINITION]")
	}
	dir, err := os.Getwd()
	ts.Check(err)
	text, err := os.ReadFile(filepath.Join(dir, schemaFile))
	ts.Check(err)
	doc := new(node)
	ts.Check(json.Unmarshal(text, doc))
	var value any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &value))
	of := doc
	if len(args) == 2 {
		of = doc.Defs[args[1]]
	}
	if text := of.wrong(doc, "it", value); text != "" {
		ts.Fatalf("%s", text)
	}
}
