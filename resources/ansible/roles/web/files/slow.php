<?php
// For demonstrations alone: keep a worker busy for ?seconds=10 (at most 60), as a slow page of a shop would.
$seconds = max(0, min(60, (float) ($_GET['seconds'] ?? 10)));
usleep((int) ($seconds * 1e6));
header('Content-Type: text/plain');
echo gethostname(), " took $seconds s\n";
