package document

import (
	"encoding/json"
	"strings"

	"tcpbox/policy"
	"tcpbox/policy/knob"
	"tcpbox/stack/tcpstate"
)

// Schema returns the JSON Schema of the document, for editors (draft 2020-12).
// It is made of the table of knobs. What it lets through Parse may still
// refuse: durations beyond a range, rules, sysctls that the kernel has not.
func Schema() []byte {
	text := func(description string) object { return object{{"type", "string"}, {"description", description}} }
	var knobs object
	for _, d := range knob.Table() {
		knobs = append(knobs, field{d.Key, knobSchema(d, d.Does)})
		for _, leg := range tcpstate.Legs() {
			if l := d.Leg(leg); l.Carries {
				knobs = append(knobs, field{leg.String() + "." + d.Key, knobSchema(d, l.Text)})
			}
		}
	}
	var limits object
	for _, l := range LimitKeys {
		number := object{{"type", "integer"}, {"minimum", 1}, {"maximum", l.Most}, {"description", l.Does}}
		if l.Size {
			number = object{{"type", []string{"integer", "string"}}, {"minimum", 1}, {"maximum", l.Most}, {"pattern", "^[0-9]+[kMG]?$"}, {"description", l.Does}}
		}
		limits = append(limits, field{l.Name, number})
	}
	addresses := object{{"anyOf", []any{text("an address"), object{{"type", "array"}, {"items", text("an address")}}}}}
	schema := object{
		{"$schema", "https://json-schema.org/draft/2020-12/schema"},
		{"title", "tcpbox policy"},
		{"type", "object"},
		{"required", []string{"version"}},
		{"additionalProperties", false},
		{"properties", object{
			{"version", object{{"const", Version}}},
			{"preset", object{{"enum", PresetNames()}}},
			{"net", object{{"enum", []string{"none", "public", "all"}}, {"description", "what decides when no rule matches"}}},
			{"rules", object{
				{"type", "array"},
				{"description", "the first that matches decides"},
				{"items", object{{"type", "string"}, {"pattern", "^(allow|deny) +[^ ].*$"}}},
			}},
			{"tcp", object{{"type", "object"}, {"additionalProperties", false}, {"properties", knobs}}},
			{"sysctl", object{
				{"type", "object"},
				{"description", "parameters of the guest's network namespace, as they are"},
				{"propertyNames", object{{"pattern", `^net\.`}}},
				{"additionalProperties", object{{"type", []string{"string", "integer"}}}},
			}},
			{"limits", object{{"type", "object"}, {"additionalProperties", false}, {"properties", limits}}},
			{"faults", object{
				{"type", "array"},
				{"description", "what goes wrong between guest and stack; a packet goes through all of them"},
				{"items", object{{"type", "string"}, {"pattern", "^(" + strings.Join(policy.FaultActions(), "|") + ")( .*)?$"}}},
			}},
			{"dns", object{
				{"type", "object"},
				{"additionalProperties", false},
				{"properties", object{
					{"servers", object{{"anyOf", []any{object{{"enum", []string{"host", "none"}}}, object{{"type", "array"}, {"minItems", 1}, {"items", text("ADDRESS or ADDRESS:PORT")}}}}}},
					{"hosts", object{{"type", "object"}, {"additionalProperties", addresses}}},
				}},
			}},
		}},
	}
	out, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		panic(err) // it is made of strings and numbers
	}
	return append(out, '\n')
}

func knobSchema(d knob.Def, description string) object {
	switch d.Type {
	case knob.Word:
		return object{{"enum", d.Words}, {"description", description}}
	case knob.Int:
		return object{{"type", "integer"}, {"minimum", d.MinInt}, {"maximum", d.MaxInt}, {"description", description}}
	default:
		return object{{"type", []string{"string", "integer"}}, {"description", description + "; " + d.Range()}}
	}
}

// object is a JSON object whose keys stay in their order.
type object = ordered

type field = pair
