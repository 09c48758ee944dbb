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
	root, _ := fs.Sub(web, "web") // fails for no valid path
	return http.FileServerFS(root)
}
