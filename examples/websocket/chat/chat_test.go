package chat

import (
	"encoding/json"
	"testing"
)

func TestID(t *testing.T) {
	var r Request
	if err := json.Unmarshal([]byte(`{"join":"a","last":"1790000000000-7"}`), &r); err != nil {
		t.Fatal(err)
	}
	id := *r.Last
	if id != (ID{1790000000000, 7}) || id.Next().String() != "1790000000000-8" {
		t.Errorf("%v, then %v", id, id.Next())
	}
	if !id.Before(id.Next()) || id.Before(id) || !id.Before(ID{1790000000001, 1}) || !(ID{}).Before(id) {
		t.Error("the order is wrong")
	}
	for _, bad := range []string{`"7"`, `"-7"`, `"1-"`, `"1-2-3"`, `"18446744073709551616-1"`, `7`} {
		if err := json.Unmarshal([]byte(`{"last":`+bad+`}`), &r); err == nil {
			t.Errorf("%s is read as %v", bad, r.Last)
		}
	}
}
