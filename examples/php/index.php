<?php
// A page. It begins with the pid of the worker that made it.
//
//     forkd run -- php -S 127.0.0.1:8000

$body = getmypid() . " says hello\n";
header('Content-Type: text/plain');
header('Content-Length: ' . strlen($body));
echo $body;
