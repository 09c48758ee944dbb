# A Rack application. Its answer begins with the pid of the worker that gave it.
#
#     forkd run -- puma -p 8000

run(lambda do |_env|
  body = "#{Process.pid} says hello\n"
  [200, { 'content-type' => 'text/plain', 'content-length' => body.bytesize.to_s }, [body]]
end)
