<?php
// Runs before every page: a script that really lies among the uploads, whatever link led there, is not run.
(static function (): void {
    $script = realpath($_SERVER['SCRIPT_FILENAME'] ?? '');
    if ($script === false || str_starts_with($script, '/srv/shop/shared/')) {
        http_response_code(403);
        exit;
    }
})();
