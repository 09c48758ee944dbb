# The application of the directory, after a boot of 3 s.
sleep 3
eval(File.read('config.ru'), binding)
