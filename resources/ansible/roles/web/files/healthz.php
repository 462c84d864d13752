<?php
// Is this machine fit to serve visitors? 200 if so, otherwise 503 and why not.
clearstatcache();
$release = realpath('/srv/shop/current');
$missing = [];
if ($release === false || !is_file("$release/index.php")) {
    $missing[] = 'no release at /srv/shop/current';
}
if (!is_writable('/srv/shop/shared/uploads')) {
    $missing[] = 'uploads cannot be written';
}
if (!file_exists('/run/php/shop.sock')) {
    $missing[] = 'the shop\'s PHP workers do not run';
}
http_response_code($missing ? 503 : 200);
header('Content-Type: application/json');
header('Cache-Control: no-store');
echo json_encode([
    'ready' => !$missing,
    'missing' => $missing,
    'machine' => gethostname(),
    'release' => $release === false ? null : basename($release),
]), "\n";
