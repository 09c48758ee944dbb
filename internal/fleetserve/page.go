package fleetserve

import (
	"embed"
	"io/fs"
	"net/http"
)

//go:embed web
var web embed.FS

// files are the page's own: it loads no others.
func files() http.Handler {
	root, err := fs.Sub(web, "web")
	if err != nil {
		panic("fleetserve: the page is not in the program: " + err.Error())
	}
	return http.FileServerFS(root)
}
