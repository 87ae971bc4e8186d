// For installations that collect mixins; everybody else takes the two files as they are.
{
  prometheusAlerts+:: std.parseYaml(importstr 'alerts.yaml'),
  grafanaDashboards+:: { 'trunkline.json': import 'dashboard.json' },
}
