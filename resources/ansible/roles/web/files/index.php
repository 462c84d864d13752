<?php
// The first release of every web machine: it says who answered, until a shop is released.
header('Content-Type: text/html; charset=utf-8');
$machine = htmlspecialchars(gethostname());
$release = htmlspecialchars(basename(__DIR__));
?>
<!doctype html>
<title>shop</title>
<h1>This is <?= $machine ?></h1>
<p>Release <?= $release ?>, <?= gmdate('Y-m-d H:i:s') ?> UTC</p>
