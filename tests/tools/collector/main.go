// Command otel-collector is the OpenTelemetry Collector with the two parts that a test needs: its OTLP receiver, and an
// exporter of ours that writes what was received as lines of OTLP's JSON.
//
//	otel-collector --config file:collector.yaml
//
// The exporter `lines` has a `path`, and a `delay` before each batch: a collector that is slow. What cannot be written (a
// full disk) is refused to whoever sent it.
package main

import (
	"context"
	"log"
	"os"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"
)

type config struct {
	Path  string        `mapstructure:"path"`
	Delay time.Duration `mapstructure:"delay"`
}

// writer appends batches to a file, one at a time.
type writer struct {
	config *config
	lock   sync.Mutex
	file   *os.File
}

func (w *writer) start(context.Context, component.Host) (err error) {
	w.file, err = os.OpenFile(w.config.Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	return err
}

func (w *writer) traces(ctx context.Context, traces ptrace.Traces) error {
	line, err := (&ptrace.JSONMarshaler{}).MarshalTraces(traces)
	if err != nil {
		return err
	}
	return w.write(ctx, line)
}

func (w *writer) logs(ctx context.Context, logs plog.Logs) error {
	line, err := (&plog.JSONMarshaler{}).MarshalLogs(logs)
	if err != nil {
		return err
	}
	return w.write(ctx, line)
}

func (w *writer) write(ctx context.Context, line []byte) (err error) {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(w.config.Delay):
	}
	w.lock.Lock()
	defer w.lock.Unlock()
	_, err = w.file.Write(append(line, '\n'))
	return err
}

func (w *writer) stop(context.Context) error {
	return w.file.Close()
}

// No queue and no retries: whoever sends learns what has become of it.
func (w *writer) options() []exporterhelper.Option {
	timeout := exporterhelper.WithTimeout(exporterhelper.TimeoutConfig{})
	return []exporterhelper.Option{timeout, exporterhelper.WithStart(w.start), exporterhelper.WithShutdown(w.stop)}
}

func createTraces(ctx context.Context, settings exporter.Settings, chosen component.Config) (exporter.Traces, error) {
	w := &writer{config: chosen.(*config)}
	return exporterhelper.NewTraces(ctx, settings, chosen, w.traces, w.options()...)
}

func createLogs(ctx context.Context, settings exporter.Settings, chosen component.Config) (exporter.Logs, error) {
	w := &writer{config: chosen.(*config)}
	return exporterhelper.NewLogs(ctx, settings, chosen, w.logs, w.options()...)
}

func factories() (otelcol.Factories, error) {
	lines := exporter.NewFactory(
		component.MustNewType("lines"),
		func() component.Config { return &config{} },
		exporter.WithTraces(createTraces, component.StabilityLevelDevelopment),
		exporter.WithLogs(createLogs, component.StabilityLevelDevelopment),
	)
	made := otelcol.Factories{Telemetry: otelconftelemetry.NewFactory()}
	var err error
	if made.Receivers, err = otelcol.MakeFactoryMap[receiver.Factory](otlpreceiver.NewFactory()); err != nil {
		return made, err
	}
	made.Exporters, err = otelcol.MakeFactoryMap[exporter.Factory](lines)
	return made, err
}

func main() {
	settings := otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{Command: "otel-collector", Description: "for tests", Version: "0"},
		Factories: factories,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{
			ResolverSettings: confmap.ResolverSettings{
				DefaultScheme:     "file",
				ProviderFactories: []confmap.ProviderFactory{fileprovider.NewFactory()},
			},
		},
	}
	if err := otelcol.NewCommand(settings).Execute(); err != nil {
		log.Fatal(err)
	}
}
