{{ refusal_reasons() }}
